//! What the loader makes of files, variables and flags: who wins, what is wrong in which words, and that the
//! structs, the table of keys and the printed default agree on which keys there are.

use std::collections::BTreeSet;
use std::time::Duration;

use super::keys::SECTIONS;
use super::*;

/// A source whose file is `tidegate.toml` with that text, in a directory that lives as long as the second value.
fn source(file: &str, env: &[(&str, &str)], set: &[(&str, &str)]) -> (Source, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.toml");
    std::fs::write(&path, file).unwrap();
    let source = Source {
        file: Some(path),
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        env: env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
    };
    (source, directory)
}

const KEY: &str = "[auth]\nhs256_secret = \"0123456789abcdef0123456789abcdef\"\n";

fn loaded(file: &str, env: &[(&str, &str)], set: &[(&str, &str)]) -> Config {
    load(&source(&format!("{KEY}{file}"), env, set).0).unwrap()
}

/// The error's text, with the path of the file shortened to its name.
fn error(file: &str, env: &[(&str, &str)], set: &[(&str, &str)]) -> String {
    let (source, directory) = source(file, env, set);
    let text = load(&source).unwrap_err().to_string();
    text.replace(&format!("{}/", directory.path().display()), "")
}

/// Without a configuration file.
fn development(env: &[(&str, &str)], set: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(&Source { file: None, ..source("", env, set).0 })
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let file = "[limits]\nmessage_bytes = 2000\nqueue_bytes = 3000\nchannels_per_connection = 4\n";
    let env = [("TIDEGATE_LIMITS__MESSAGE_BYTES", "2_001"), ("TIDEGATE_LIMITS__QUEUE_BYTES", "3001")];
    let config = loaded(file, &env, &[("limits.message_bytes", "1999"), ("limits.message_bytes", "2002")]);
    assert_eq!(config.limits.message_bytes, 2002, "the last flag");
    assert_eq!(config.limits.queue_bytes, 3001, "the environment");
    assert_eq!(config.limits.channels_per_connection, 4, "the file");
    assert_eq!(config.limits.write_timeout, Duration::from_secs(10), "the default");
    assert!(!config.development);
}

#[test]
fn a_variable_is_what_its_key_takes() {
    let digits = "12345678901234567890123456789012";
    let config = loaded(
        "[channels.Chat-Room]\nhistory_size = 1\n",
        &[
            ("TIDEGATE_AUTH__HS256_SECRET", digits),
            ("TIDEGATE_AUTH__ISSUER", "true"),
            ("TIDEGATE_AUTH__JWKS_FILE", "7"),
            ("TIDEGATE_ORIGINS__ALLOW", "https://a.example, HTTPS://B.example:443,"),
            ("TIDEGATE_LISTEN__PROXY_PROTOCOL", "true"),
            ("TIDEGATE_LISTEN__DRAIN", "1m 30s"),
            ("TIDEGATE_CHANNELS__NEWS__JOIN", "anyone"),
            ("TIDEGATE_CHANNELS__CHAT-ROOM__HISTORY_SIZE", "5"),
            ("TIDEGATE_CHANNELS__A__B__HISTORY_SIZE", "6"),
            ("TIDEGATE_LOG", "debug"),
        ],
        &[("log.level", "warn"), ("channels.v1.0.presence", "false")],
    );
    assert_eq!(config.auth.hs256_secret.as_deref(), Some(digits));
    assert_eq!(config.auth.issuer.as_deref(), Some("true"));
    assert_eq!(config.auth.jwks_file, Some("7".into()));
    assert_eq!(config.origins.allow, ["https://a.example", "https://b.example"]);
    assert!(config.listen.proxy_protocol);
    assert_eq!(config.listen.drain, Duration::from_secs(90));
    assert_eq!(config.log.level, "warn");
    let namespaces = &config.channels.namespaces;
    assert_eq!(namespaces.keys().collect::<Vec<_>>(), ["Chat-Room", "a__b", "news", "v1.0"]);
    assert_eq!(namespaces["news"].join, Access::Anyone);
    assert_eq!(namespaces["Chat-Room"].history_size, 5);
    assert_eq!(namespaces["a__b"].history_size, 6);
    assert!(!namespaces["v1.0"].presence);
}

#[test]
fn a_list_in_a_variable_may_be_toml() {
    let list = [("TIDEGATE_ORIGINS__ALLOW", r#"["https://a.example", "*"]"#)];
    assert_eq!(loaded("", &list, &[]).origins.allow, ["https://a.example", "*"]);
    assert_eq!(loaded("", &[("TIDEGATE_ORIGINS__ALLOW", "")], &[]).origins.allow, [""; 0]);
}

#[test]
fn a_namespace_inherits_what_it_does_not_set() {
    let config = loaded(
        "[channels.default]\nhistory_size = 7\njoin = \"anyone\"\n[channels.chat]\njoin = \"granted\"\n",
        &[("TIDEGATE_CHANNELS__DEFAULT__SLOW_CONSUMER", "close")],
        &[("channels.chat.history_ttl", "1m")],
    );
    let chat = config.channels.of(Some("chat"));
    assert_eq!((chat.history_size, chat.join, chat.slow_consumer), (7, Access::Granted, SlowConsumer::Close));
    assert_eq!(chat.history_ttl, Duration::from_mins(1));
    assert_eq!(config.channels.of(Some("other")).join, Access::Anyone);
    assert_eq!(config.channels.of(None).history_ttl, Duration::from_mins(10));
}

#[test]
fn without_a_file_it_is_development_mode() {
    let config = development(&[], &[]).unwrap();
    assert!(config.development);
    assert_eq!(config.auth.mode, AuthMode::Optional);
    let default = config.channels.of(None);
    assert_eq!((default.join, default.send, default.presence), (Access::Anyone, Access::Anyone, true));
    assert_eq!(config.warnings, [""; 0]);

    let env = [("TIDEGATE_AUTH__MODE", "required"), ("TIDEGATE_LISTEN__ADDR", "[::1]:0")];
    let config = development(&env, &[("channels.chat.send", "granted")]).unwrap();
    assert_eq!(config.auth.mode, AuthMode::Required);
    assert_eq!(config.listen.addr.to_string(), "[::1]:0");
    let chat = config.channels.of(Some("chat"));
    assert_eq!((chat.join, chat.send), (Access::Anyone, Access::Granted));
}

#[test]
fn the_file_may_be_named_in_the_environment() {
    let (mut source, _directory) = source(&format!("{KEY}[listen]\nmax_connections = 5\n"), &[], &[]);
    source.env.push(("TIDEGATE_CONFIG".into(), source.file.take().unwrap().into()));
    let config = load(&source).unwrap();
    assert_eq!((config.listen.max_connections, config.development), (5, false));
    source.env.push(("TIDEGATE_CONFIG".into(), "".into()));
    assert!(load(&source).unwrap().development, "an empty variable counts as not set");
}

#[test]
fn other_variables_are_left_alone() {
    let env = [
        ("TIDEGATE_TOKEN", "x"),
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_PORT", "tcp://x"),
        ("TIDEGATE_LOG", ""),
    ];
    let own = [("tls.cert", "edge.crt")];
    assert_eq!(loaded("", &env, &own).warnings, [""; 0]);
    assert_eq!(
        loaded("", &[("TIDEGATE_LISTEN_ADDR", "x")], &own).warnings,
        ["TIDEGATE_LISTEN_ADDR is not read; TIDEGATE_LISTEN__ADDR would be"]
    );
}

const WRONG_FILES: &[(&str, &str)] = &[
    ("[listen", "tidegate.toml:1: not TOML: unclosed table, expected `]`"),
    (
        "\n[lissen]\n",
        "tidegate.toml:2: lissen is no section; there are listen, tls, auth, origins, limits, quota, compression, heartbeat, channels, bus, conformance, log",
    ),
    ("[tls]\n\ncerd = 1", "tidegate.toml:3: tls.cerd is no key; there are enabled, cert, key"),
    ("[origins]\nalow = []", "tidegate.toml:2: origins.alow is no key; there is allow"),
    ("tls = false", "tidegate.toml:1: tls = false must be a section: [tls]"),
    (
        "[channels.chat]\njoyn = 1",
        "tidegate.toml:2: channels.chat.joyn is no key; there are history_size, history_bytes, history_ttl, presence, join, send, slow_consumer, subject",
    ),
    (
        "[channels]\njoin = \"anyone\"",
        "tidegate.toml:2: channels.join = \"anyone\" belongs to a namespace: [channels.default] join = \"anyone\"",
    ),
    ("[channels]\nchat = 1", "tidegate.toml:2: channels.chat = 1 must be a section: [channels.chat]"),
    (
        "[channels.\"a:b\"]\njoin = \"anyone\"",
        "tidegate.toml:1: channels.\"a:b\" is no namespace: one is 1 to 199 bytes of A-Z a-z 0-9 _ - . @ = / !",
    ),
    (
        "[listen]\naddr = \"localhost:1\"",
        "tidegate.toml:2: listen.addr = \"localhost:1\" must be an IP address and a port, such as \"0.0.0.0:8443\"",
    ),
    ("[listen]\nproxy_protocol = 1", "tidegate.toml:2: listen.proxy_protocol = 1 must be true or false"),
    (
        "[listen]\nmax_connections = -1",
        "tidegate.toml:2: listen.max_connections = -1 must be a whole number from 1 to 10000000",
    ),
    (
        "[listen]\nmax_connections = 99999999999999999999",
        "tidegate.toml:2: listen.max_connections = 99999999999999999999 must be a whole number from 1 to 10000000",
    ),
    (
        "[listen]\ndrain = 20",
        "tidegate.toml:2: listen.drain = 20 must be a time with its unit from 1ms to 1h, such as \"20s\"",
    ),
    (
        "[listen]\ndrain = \"0s\"",
        "tidegate.toml:2: listen.drain = \"0s\" must be a time with its unit from 1ms to 1h, such as \"20s\"",
    ),
    (
        "[limits]\nmessage_bytes = 1023",
        "tidegate.toml:2: limits.message_bytes = 1023 must be a number of bytes from 1024 to 67108864",
    ),
    (
        "[limits]\nmessage_bytes = 1.5",
        "tidegate.toml:2: limits.message_bytes = 1.5 must be a number of bytes from 1024 to 67108864",
    ),
    (
        "[channels.default]\nhistory_size = 100001",
        "tidegate.toml:2: channels.default.history_size = 100001 must be a whole number from 1 to 100000",
    ),
    (
        "[auth]\nmode = \"none\"",
        "tidegate.toml:2: auth.mode = \"none\" must be one of \"required\", \"optional\"",
    ),
    (
        "[auth]\nhs256_secret = \"hunter2\"",
        "tidegate.toml:2: auth.hs256_secret = … must be a text of at least 32 bytes (RFC 7518 §3.2), such as `openssl rand -base64 48` prints",
    ),
    (
        "[auth]\nhs256_secret = 12345",
        "tidegate.toml:2: auth.hs256_secret = … must be a text of at least 32 bytes (RFC 7518 §3.2), such as `openssl rand -base64 48` prints",
    ),
    ("[auth]\nissuer = \"\"", "tidegate.toml:2: auth.issuer = \"\" must be a text that is not empty"),
    ("[tls]\ncert = \"\"", "tidegate.toml:2: tls.cert = \"\" must be the path of a file"),
    (
        "[origins]\nallow = [\"https://a/\", 1]",
        "tidegate.toml:2: origins.allow = [\"https://a/\", 1] must be a list of origins, each scheme://host or scheme://host:port without a path, or \"*\"",
    ),
    (
        "[log]\nlevel = \"inof\"",
        "tidegate.toml:2: log.level = \"inof\" must be error, warn, info, debug, trace or off, alone or by module: \"info,tidegate::auth=debug\"",
    ),
    (
        "[bus]\nurl = \"x\"\nkind = \"nats\"",
        "tidegate.toml:2: bus.url = … must be one or more servers: \"nats://host:4222, tls://other:4222\"",
    ),
    (
        "[bus]\nkind = \"kafka\"",
        "tidegate.toml:2: bus.kind = \"kafka\" must be one of \"embedded\", \"nats\"",
    ),
];

#[test]
fn errors_in_a_file_name_the_line() {
    for (file, expected) in WRONG_FILES {
        assert_eq!(&error(file, &[], &[]), expected, "{file}");
    }
}

#[test]
fn a_key_that_would_not_be_seen_is_shown_in_quotes() {
    for (file, set, shown) in [
        ("\"\" = 1", &[][..], "tidegate.toml:1: \"\" is no section"),
        ("[limits]\n\"a\\nb\" = 1", &[], "tidegate.toml:2: \"limits.a\\nb\" is no key"),
        ("", &[("", "x")], "--set : \"\" is no key"),
    ] {
        let error = error(file, &[], set);
        assert!(error.starts_with(shown), "{error}");
    }
}

#[test]
fn errors_outside_a_file_name_the_variable_or_the_flag() {
    for (variable, value, expected) in [
        (
            "TIDEGATE_LISTEN__ADR",
            "x",
            "TIDEGATE_LISTEN__ADR: listen.adr is no key; there are addr, admin, proxy_protocol, max_connections, drain, handshake_timeout, request_timeout, idle_timeout",
        ),
        (
            "TIDEGATE_CHANNELS__JOIN",
            "x",
            "TIDEGATE_CHANNELS__JOIN: channels__join is no key; one of a namespace is written channels.NAMESPACE.key, such as channels.default.join",
        ),
        (
            "TIDEGATE_LIMITS__QUEUE_BYTES",
            "1MB",
            "TIDEGATE_LIMITS__QUEUE_BYTES: limits.queue_bytes = \"1MB\" must be a number of bytes from 1024 to 1073741824",
        ),
        (
            "TIDEGATE_TLS__ENABLED",
            "yes",
            "TIDEGATE_TLS__ENABLED: tls.enabled = \"yes\" must be true or false",
        ),
        (
            "TIDEGATE_ORIGINS__ALLOW",
            "a.example",
            "TIDEGATE_ORIGINS__ALLOW: origins.allow = \"a.example\" must be a list of origins, each scheme://host or scheme://host:port without a path, or \"*\"",
        ),
        (
            "TIDEGATE_AUTH__HS256_SECRET",
            "short",
            "TIDEGATE_AUTH__HS256_SECRET: auth.hs256_secret = … must be a text of at least 32 bytes (RFC 7518 §3.2), such as `openssl rand -base64 48` prints",
        ),
        (
            "TIDEGATE_LOG",
            "loud",
            "TIDEGATE_LOG: log.level = \"loud\" must be error, warn, info, debug, trace or off, alone or by module: \"info,tidegate::auth=debug\"",
        ),
    ] {
        assert_eq!(error(KEY, &[(variable, value)], &[]), expected);
    }
    for (key, value, expected) in [
        (
            "listen",
            "x",
            "--set listen: listen is no key; one is written section.key, such as limits.message_bytes",
        ),
        ("log.levl", "x", "--set log.levl: log.levl is no key; there are format, level"),
        (
            "listen.admin",
            "x",
            "--admin: listen.admin = \"x\" must be an IP address and a port, such as \"0.0.0.0:8443\"",
        ),
        (
            "heartbeat.interval",
            "25",
            "--set heartbeat.interval: heartbeat.interval = \"25\" must be a time with its unit from 1ms to 1h, such as \"20s\"",
        ),
    ] {
        assert_eq!(error(KEY, &[], &[(key, value)]), expected);
        assert!(load(&source(KEY, &[], &[(key, value)]).0).unwrap_err().is_usage());
    }
    assert!(!load(&source("x", &[], &[]).0).unwrap_err().is_usage());
}

#[test]
fn contradictions_are_blamed_on_what_was_written() {
    for (file, expected) in [
        (
            "",
            "by default: auth.mode = \"required\" needs a key to check tokens with: set auth.hs256_secret, auth.jwks_file or auth.public_key_file, or let guests in with auth.mode = \"optional\"",
        ),
        (
            "[auth]\nmode = \"required\"",
            "tidegate.toml:2: auth.mode = \"required\" needs a key to check tokens with: set auth.hs256_secret, auth.jwks_file or auth.public_key_file, or let guests in with auth.mode = \"optional\"",
        ),
        (
            "[auth]\nmode=\"optional\"\n[listen]\naddr = \"0.0.0.0:9464\"",
            "by default: listen.admin = 127.0.0.1:9464 must differ from listen.addr, which is 0.0.0.0:9464",
        ),
        (
            "[auth]\nmode=\"optional\"\n[heartbeat]\ntimeout = \"1m\"",
            "tidegate.toml:4: heartbeat.timeout = \"1m\" must be at most heartbeat.interval, which is 25s",
        ),
        (
            "[auth]\nmode=\"optional\"\n[heartbeat]\ninterval = \"5s\"",
            "tidegate.toml:4: heartbeat.interval = \"5s\" must be at least heartbeat.timeout, which is 10s",
        ),
        (
            "[auth]\nmode=\"optional\"\n[limits]\nmessage_bytes = 2_000_000",
            "tidegate.toml:4: limits.message_bytes = 2000000 must be at most limits.queue_bytes, which is 1048576",
        ),
        (
            "[auth]\nmode=\"optional\"\n[limits]\nqueue_bytes = 2_000",
            "tidegate.toml:4: limits.queue_bytes = 2000 must be at least limits.message_bytes, which is 65536",
        ),
        (
            "[auth]\nmode=\"optional\"\n[channels.chat]\nhistory_bytes = 2_000",
            "tidegate.toml:4: channels.chat.history_bytes = 2000 must be at least limits.message_bytes, which is 65536",
        ),
    ] {
        assert_eq!(error(file, &[], &[]), expected, "{file}");
    }
    let open = development(&[], &[("listen.addr", "0.0.0.0:8443")]).unwrap_err().to_string();
    assert_eq!(
        open,
        "--listen: listen.addr = \"0.0.0.0:8443\" must be a loopback address in development mode, which is open to \
         everyone; to be reachable write a configuration file (tidegate default-config > tidegate.toml) and name it \
         with --config"
    );
    let open = development(&[("TIDEGATE_LISTEN__ADMIN", "0.0.0.0:1")], &[]).unwrap_err().to_string();
    assert!(
        open.starts_with("TIDEGATE_LISTEN__ADMIN: listen.admin = \"0.0.0.0:1\" must be a loopback"),
        "{open}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let source = Source { file: Some("no/such.toml".into()), ..Source::default() };
    let text = load(&source).unwrap_err().to_string();
    assert_eq!(
        text,
        "cannot read the configuration file no/such.toml: No such file or directory (os error 2)"
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt as _;
    let env = vec![("TIDEGATE_AUTH__ISSUER".into(), std::ffi::OsString::from_vec(vec![0xff]))];
    let text = load(&Source { env, ..Source::default() }).unwrap_err().to_string();
    assert_eq!(text, "the environment variable TIDEGATE_AUTH__ISSUER is not UTF-8; it must be written anew");
}

#[test]
fn what_is_rarely_meant_is_said() {
    let file = "[listen]\naddr = \"0.0.0.0:8443\"\nadmin = \"0.0.0.0:9464\"\n[conformance]\necho = true\n\
                [auth]\nmode = \"optional\"\n[origins]\nallow = [\"*\"]\n";
    let with_tls = load(&source(file, &[], &[]).0).unwrap().warnings;
    assert_eq!(
        with_tls,
        [
            "conformance.echo = true: everyone who reaches 0.0.0.0:8443 may have it echo; it is for suites",
            "listen.admin = \"0.0.0.0:9464\": whoever reaches it sees metrics and health without a token",
            "tls.cert is the development certificate: no browser trusts it; set tls.cert and tls.key",
            "origins.allow has \"*\": any web page may connect, though not with the visitor's cookie",
            "there is no key to check tokens with: everyone is a guest (auth.hs256_secret, auth.jwks_file or \
             auth.public_key_file)",
        ]
    );
    let plain = load(&source(file, &[("TIDEGATE_TLS__ENABLED", "false")], &[]).0).unwrap().warnings;
    assert_eq!(
        plain[2],
        "tls.enabled = false: tokens and messages are readable on the way unless a proxy in front ends TLS"
    );
}

#[test]
fn secrets_are_not_printed() {
    let config = loaded("", &[], &[]);
    assert!(config.auth.hs256_secret.is_some());
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

/// `DEFAULT_TOML` with its settings in force; of those without a default only the examples.
fn uncommented(examples: bool) -> String {
    let setting = |line: &str| {
        let name: String =
            line.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect();
        !name.is_empty() && line[name.len()..].starts_with(" = ")
    };
    let mut text = String::new();
    for line in DEFAULT_TOML.lines() {
        let commented = if examples { line.strip_prefix("# e.g. ") } else { line.strip_prefix('#') };
        let kept = commented.filter(|line| setting(line)).or(Some(line).filter(|line| line.starts_with('[')));
        text.extend([kept.unwrap_or_default(), "\n"]);
    }
    text
}

fn keys_of(text: &str) -> BTreeSet<String> {
    let table: toml::Table = text.parse().unwrap();
    let sections = table.iter().map(|(section, keys)| match section.as_str() {
        "channels" => (section, &keys["default"]),
        _ => (section, keys),
    });
    sections
        .flat_map(|(section, keys)| {
            keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
        })
        .collect()
}

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(toml::from_str::<Config>(&uncommented(false)).unwrap(), Config::default());
    assert_eq!(toml::from_str::<Config>(DEFAULT_TOML).unwrap(), Config::default());
    // The table of keys admits all of it, the examples too.
    let (source, _directory) =
        source(&uncommented(false), &[("TIDEGATE_AUTH__HS256_SECRET", &"x".repeat(32))], &[]);
    load(&source).unwrap();
    let (source, _directory) = self::source(&uncommented(true), &[], &[]);
    let config = load(&source).unwrap();
    assert!(config.auth.jwks_file.is_some() && config.auth.audience.is_some());
}

#[test]
fn structs_table_and_printed_default_have_the_same_keys() {
    let printed = &keys_of(&uncommented(false)) | &keys_of(&uncommented(true));
    let table: BTreeSet<String> = SECTIONS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |(key, _)| format!("{section}.{key}")))
        .collect();
    let structs: BTreeSet<String> = fields("")
        .iter()
        .flat_map(|section| {
            let header = if section == "channels" { "channels.default" } else { section };
            fields(&format!("[{header}]\n")).into_iter().map(move |key| format!("{section}.{key}"))
        })
        .collect();
    assert!(structs.len() > 40, "{structs:?}");
    assert_eq!(printed, structs);
    assert_eq!(table, structs);
}

/// The names that serde expects there, from what it says about one that is unknown.
fn fields(header: &str) -> Vec<String> {
    let error = toml::from_str::<Config>(&format!("{header}\"?\" = 1\n")).unwrap_err();
    let (_, expected) = error.message().split_once("expected ").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
