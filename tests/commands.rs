//! The commands that need no server, as a person meets them: the real binary, in an empty directory and an empty
//! environment, its output and its exit code.
#![expect(
    clippy::unwrap_used,
    reason = "in a test a failed unwrap is the report, in its shared functions too"
)]

use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::{Value, json};

const SECRET: &str = "a secret of at least 32 bytes, as it must be";

/// A directory to run in.
struct Place(tempfile::TempDir);

impl Place {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let place = Self::empty();
        for (name, text) in files {
            std::fs::write(place.0.path().join(name), text).unwrap();
        }
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], env: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .envs(env.iter().copied())
            .output()
            .unwrap()
    }
}

/// Exit code, standard output, standard error.
fn seen(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn refused(output: &Output, code: i32, sentence: &str) {
    assert_eq!(seen(output), (code, String::new(), format!("tidegate: {sentence}\n")));
}

#[test]
fn the_default_is_printed_and_can_be_begun_with() {
    let place = Place::empty();
    let (code, text, errors) = seen(&place.run(&["default-config"]));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(text, tidegate::config::DEFAULT_TOML);

    let place = Place::with(&[("tidegate.toml", &text)]);
    refused(
        &place.run(&["check-config", "--config", "tidegate.toml"]),
        1,
        "by default: auth.mode = \"required\" needs a key to check tokens with: set auth.hs256_secret, \
         auth.jwks_file or auth.public_key_file, or let guests in with auth.mode = \"optional\"",
    );
    let key = [("TIDEGATE_AUTH__HS256_SECRET", SECRET)];
    let (code, text, errors) = seen(&place.run_with(&["check-config", "--config", "tidegate.toml"], &key));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(text.starts_with("configuration is fine: tidegate.toml\n"), "{text}");
}

#[test]
fn a_fine_configuration_says_what_it_opens_to_whom() {
    let (code, text, errors) = seen(&Place::empty().run(&["check-config"]));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(
        text,
        "configuration is fine: no configuration file, so development mode\n  \
         clients   127.0.0.1:8443, TLS with certs/dev.crt, at most 100000 at once\n  \
         operators 127.0.0.1:9464, no TLS, no token\n  \
         tokens    optional, without one a guest; the development secret\n  \
         pages     the edge's own\n  \
         channels  join: ANYONE; send: ANYONE; keeps 128 messages for 10m; shows who is there\n"
    );

    let file = "[listen]\naddr = \"0.0.0.0:80\"\n[tls]\nenabled = false\n[auth]\naudience = \"edge\"\n\
                [origins]\nallow = [\"https://App.example:443\"]\n[channels.news]\njoin = \"anyone\"\n\
                presence = false\n";
    let place = Place::with(&[("edge.toml", file)]);
    let env = [("TIDEGATE_AUTH__HS256_SECRET", SECRET), ("TIDEGATE_CONFIG", "edge.toml")];
    let (code, text, errors) = seen(&place.run_with(&["check-config"], &env));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert_eq!(
        text,
        "configuration is fine: edge.toml\n  \
         clients   0.0.0.0:80, plain TCP, at most 100000 at once\n  \
         operators 127.0.0.1:9464, no TLS, no token\n  \
         tokens    required; the HS256 secret; for edge\n  \
         pages     the edge's own, https://app.example\n  \
         news:*    join: ANYONE; send: whose token grants it; keeps 128 messages for 10m\n  \
         others    join: whose token grants it; send: whose token grants it; keeps 128 messages for 10m; \
         shows who is there\n\
         warning: tls.enabled = false: tokens and messages are readable on the way unless a proxy in front ends \
         TLS\n"
    );
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "it makes nothing");
}

#[test]
fn a_wrong_configuration_is_named_to_the_line() {
    let place = Place::with(&[("edge.toml", "[auth]\nmode = \"optional\"\n[listen]\nadr = \"x\"\n")]);
    refused(
        &place.run(&["check-config", "--config", "edge.toml"]),
        1,
        "edge.toml:4: listen.adr is no key; there are addr, admin, proxy_protocol, max_connections, drain, \
         handshake_timeout, request_timeout, idle_timeout",
    );
    refused(
        &place.run_with(&["check-config"], &[("TIDEGATE_LIMITS__MESSAGE_BYTES", "64k")]),
        1,
        "TIDEGATE_LIMITS__MESSAGE_BYTES: limits.message_bytes = \"64k\" must be a number of bytes from 1024 to \
         67108864",
    );
    refused(
        &place.run(&["check-config", "--config", "none.toml"]),
        1,
        "cannot read the configuration file none.toml: No such file or directory (os error 2)",
    );
}

#[test]
fn the_files_that_are_named_are_looked_at() {
    let place = Place::with(&[("empty", ""), ("jwks.json", "{\"keys\": []}"), ("public.pem", "no key")]);
    tidegate::server::dev_cert::ensure(&place.path().join("a")).unwrap();
    tidegate::server::dev_cert::ensure(&place.path().join("b")).unwrap();
    let check = |env: &[(&str, &str)]| {
        let file = place.path().join("edge.toml");
        std::fs::write(&file, "[auth]\nmode = \"optional\"\n").unwrap();
        place.run_with(&["check-config", "--config", "edge.toml"], env)
    };
    let cert = |cert, key| check(&[("TIDEGATE_TLS__CERT", cert), ("TIDEGATE_TLS__KEY", key)]);
    assert_eq!(cert("a/dev.crt", "a/dev.key").status.code(), Some(0));
    refused(
        &cert("no.crt", "a/dev.key"),
        1,
        "tls.cert = \"no.crt\" cannot be read: No such file or directory (os error 2)",
    );
    refused(&cert("empty", "a/dev.key"), 1, "tls.cert = \"empty\" has no certificate in PEM form");
    refused(&cert("a/dev.crt", "a/dev.crt"), 1, "tls.key = \"a/dev.crt\" has no private key in PEM form");
    let (code, _, text) = seen(&cert("a/dev.crt", "b/dev.key"));
    assert_eq!(code, 1);
    assert!(
        text.starts_with("tidegate: tls.key = \"b/dev.key\" does not go with tls.cert = \"a/dev.crt\": "),
        "{text}"
    );
    refused(
        &check(&[("TIDEGATE_AUTH__JWKS_FILE", "jwks.json")]),
        1,
        "auth.jwks_file = \"jwks.json\" has no key",
    );
    let (code, _, text) = seen(&check(&[("TIDEGATE_AUTH__JWKS_FILE", "empty")]));
    assert!(
        text.starts_with("tidegate: auth.jwks_file = \"empty\" is no JWK set (RFC 7517): "),
        "{code} {text}"
    );
    refused(
        &check(&[("TIDEGATE_AUTH__PUBLIC_KEY_FILE", "public.pem")]),
        1,
        "auth.public_key_file = \"public.pem\" is no PEM public key for RS256, ES256 or EdDSA",
    );
}

/// The claims of a printed token, its signature checked.
fn claims(output: &Output, secret: &str, audience: Option<&str>) -> Value {
    let (code, token, errors) = seen(output);
    assert_eq!((code, errors.as_str()), (0, ""));
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_aud = audience.is_some();
    validation.set_audience(audience.as_slice());
    let token = token.strip_suffix('\n').unwrap();
    decode::<Value>(token, &DecodingKey::from_secret(secret.as_bytes()), &validation).unwrap().claims
}

#[test]
fn a_development_token_is_signed_with_the_development_secret() {
    let place = Place::empty();
    let output = place.run(&["token", "--sub", "alice"]);
    let secret = std::fs::read_to_string(place.path().join("certs/dev.secret")).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.decode(&secret).unwrap().len(), 32);
    let found = claims(&output, &secret, None);
    assert_eq!(found["sub"], "alice");
    assert_eq!(found["exp"].as_u64().unwrap() - found["iat"].as_u64().unwrap(), 3600);
    assert_eq!(found.as_object().unwrap().len(), 3, "{found}");

    claims(&place.run(&["token", "--sub", "bob"]), &secret, None);
}

#[test]
fn a_token_says_what_the_flags_and_the_configuration_say() {
    let file = "[auth]\nissuer = \"https://id.example\"\naudience = \"edge\"\n";
    let place = Place::with(&[("edge.toml", file)]);
    let env = [("TIDEGATE_AUTH__HS256_SECRET", SECRET)];
    let token = |more: &[&str]| {
        let arguments = [&["token", "--config", "edge.toml", "--sub", "backend"], more].concat();
        place.run_with(&arguments, &env)
    };
    let mut found = claims(
        &token(&[
            "--join",
            "chat:*",
            "--join",
            "news",
            "--send",
            "*",
            "--role",
            "server",
            "--info",
            "{\"name\": \"B\"}",
            "--expires",
            "30days",
        ]),
        SECRET,
        Some("edge"),
    );
    let times = found.as_object_mut().unwrap();
    let (issued, expires) = (times.remove("iat").unwrap(), times.remove("exp").unwrap());
    assert_eq!(expires.as_u64().unwrap() - issued.as_u64().unwrap(), 30 * 24 * 3600);
    let expected = json!({"sub": "backend", "iss": "https://id.example", "aud": "edge", "role": "server",
                          "channels": {"join": ["chat:*", "news"], "send": ["*"]}, "info": {"name": "B"}});
    assert_eq!(found, expected);

    let found = claims(&token(&["--aud", "other", "--iss", "me"]), SECRET, Some("other"));
    assert_eq!((&found["iss"], &found["channels"]), (&json!("me"), &Value::Null));
    assert!(!place.path().join("certs").exists(), "no development secret where there is a configuration");
}

#[test]
fn without_a_secret_there_is_no_token() {
    let place = Place::with(&[("edge.toml", "[auth]\njwks_file = \"jwks.json\"\n")]);
    refused(
        &place.run(&["token", "--config", "edge.toml", "--sub", "alice"]),
        2,
        "there is no secret to sign with: set auth.hs256_secret, or have whoever holds the private key sign",
    );
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_would_be_right() {
    let place = Place::empty();
    for (arguments, said) in [
        (&["serv"][..], "unrecognized subcommand 'serv'"),
        (&["--listen", "8443"], "invalid value '8443' for '--listen <IP:PORT>'"),
        (
            &["serve", "--set", "listen.drain"],
            "must be section.key=value, such as limits.message_bytes=131072",
        ),
        (
            &["serve", "--set", "listen.drian=1s"],
            "--set listen.drian: listen.drian is no key; there are addr",
        ),
        (
            &["--set", "listen.drain=1"],
            "--set listen.drain: listen.drain = \"1\" must be a time with its unit",
        ),
        (
            &["--listen", "0.0.0.0:1"],
            "--listen: listen.addr = \"0.0.0.0:1\" must be a loopback address in development",
        ),
        (&["token"], "--sub <USER>"),
        (&["token", "--sub", ""], "a value is required for '--sub <USER>'"),
        (&["token", "--sub", "a", "--join", "a*b"], "* may stand at the end only"),
        (&["token", "--sub", "a", "--expires", "1"], "must be a time with its unit, such as 1h or 30days"),
        (&["token", "--sub", "a", "--info", "{"], "must be JSON, such as"),
        (&["token", "--sub", "a", "--role", "admin"], "[possible values: server]"),
        (&["publish", "a b", "x"], "a channel name may hold A-Z a-z 0-9"),
        (&["publish", "a", "{"], "DATA begins like JSON and is none"),
        (&["publish", "a", "x", "--message-id", ""], "must be 1 to 64 printable ASCII characters"),
        (&["publish", "a", "x", "--url", "localhost:8443"], "must be http://HOST or https://HOST"),
        (&["publish", "a", "x", "--ca", "c.pem", "--insecure"], "cannot be used with"),
        (&["subscribe"], "<CHANNEL>"),
        (&["subscribe", "a,,b"], "a channel name is empty"),
        (&["subscribe", "a", "--cursor", "x", "--history", "1"], "cannot be used with"),
        (&["subscribe", "a", "--transport", "udp"], "[possible values: ws, sse, poll]"),
        (&["subscribe", "a", "--count", "0"], "0 is not in 1.."),
        (&["healthcheck", "--admin", "localhost"], "invalid value 'localhost' for '--admin <IP:PORT>'"),
    ] {
        let (code, out, errors) = seen(&place.run(arguments));
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(said), "{arguments:?}: {errors}");
    }
}

#[test]
fn variables_of_clients_are_checked_too() {
    let place = Place::empty();
    let run = |name, value| place.run_with(&["publish", "a", "x"], &[(name, value)]);
    refused(
        &run("TIDEGATE_URL", "edge"),
        2,
        "TIDEGATE_URL = \"edge\": must be http://HOST or https://HOST, with :PORT and a path where they are needed",
    );
    refused(&run("TIDEGATE_TOKEN", "a\nb"), 2, "a token has no spaces, line ends or other such characters");
}

#[test]
fn help_is_for_people() {
    let place = Place::empty();
    let (code, text, _) = seen(&place.run(&["--help"]));
    assert_eq!(code, 0);
    for command in [
        "serve",
        "check-config",
        "default-config",
        "token",
        "publish",
        "subscribe",
        "healthcheck",
        "--listen",
    ] {
        assert!(text.contains(command), "{text}");
        if command != "--listen" {
            let (code, help, _) = seen(&place.run(&[command, "--help"]));
            assert_eq!(code, 0);
            assert!(command == "default-config" || help.contains("Examples:"), "{help}");
        }
    }
    let (code, text, _) = seen(&place.run(&["--version"]));
    assert_eq!((code, text), (0, format!("tidegate {}\n", env!("CARGO_PKG_VERSION"))));
}
