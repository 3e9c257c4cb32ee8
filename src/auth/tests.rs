//! Tokens against keys, with real keys and the known attacks.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::testing::{
    Files, SECRET, Signer, base64url, bob, hs256, hs256_by, seconds_from_now, unsigned, with_jwks, with_pem,
    with_secret,
};
use super::*;
use crate::config;

/// 1024 bits, made with `openssl genrsa`; its private half is gone.
const WEAK_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDLX54i2vqmpy19Z3GIJFPJahei
oVxIR/xgmTxYVGzBBAGWoq2F1y4sS5rWbdT5ygkgYklNxI/BgrZAEQ0GXTd4hJuf
xO8adj3sIKH1xvzp1x33TqgSzCgmmISvaEn0dbEr+FxNMNMRnJ3Mp3uzDrnz60wC
DHAdSJPBcu5qHwIcWQIDAQAB
-----END PUBLIC KEY-----
";

fn of_jwks(keys: &[Value]) -> Authenticator {
    let files = Files::new();
    Authenticator::new(&with_jwks(files.jwks(keys))).unwrap()
}

fn of_pem(pem: &str) -> Authenticator {
    let files = Files::new();
    Authenticator::new(&with_pem(files.write("key.pem", pem))).unwrap()
}

fn key_error(settings: &config::Auth) -> String {
    Authenticator::new(settings).unwrap_err().to_string()
}

#[test]
fn every_algorithm_verifies_by_jwks_and_by_pem() {
    for signer in [Signer::rsa(), &Signer::ec(), &Signer::ed()] {
        let other = if signer.algorithm == Algorithm::EdDSA { Signer::ec() } else { Signer::ed() };
        for edge in [of_jwks(&[signer.jwk(None)]), of_pem(&signer.public_pem())] {
            let identity = edge.verify(&signer.token(&bob())).unwrap();
            assert_eq!((&*identity.user_id, identity.role), ("bob", Role::User), "{:?}", signer.algorithm);
            assert_eq!(edge.verify(&other.token(&bob())).unwrap_err(), AuthError::AlgorithmNotAllowed);
        }
    }
    let edge = Authenticator::new(&with_secret()).unwrap();
    assert_eq!(&*edge.verify(&hs256(&bob())).unwrap().user_id, "bob");
    assert_eq!(edge.verify(&hs256_by(&[7; 32], &bob())).unwrap_err(), AuthError::BadSignature);
}

/// Signed by others: the examples of RFC 7515 §A.2 and §A.3. They name no subject, which is found out only after their
/// signature was found good and before their `exp` of 2011.
#[test]
fn the_standard_s_own_examples_verify() {
    const PAYLOAD: &str =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let rsa = json!({"kty": "RSA", "e": "AQAB", "n": concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-",
        "pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2Ca",
        "pHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb5",
        "4h4FRWyuXpoQ",
    )});
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let rs256 = concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7",
        "t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi1",
        "2jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGl",
        "UPQGe77Rw",
    );
    let es256 = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let edge = of_jwks(&[rsa, ec]);
    for (header, signature) in [("eyJhbGciOiJSUzI1NiJ9", rs256), ("eyJhbGciOiJFUzI1NiJ9", es256)] {
        let token = format!("{header}.{PAYLOAD}.{signature}");
        let verify_at = |seconds| {
            edge.verify_at(&token, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap_err()
        };
        assert_eq!(verify_at(1_300_819_379), AuthError::Missing("sub"));
        assert_eq!(verify_at(1_300_819_380), AuthError::Expired);
    }
}

#[test]
fn a_key_of_the_same_algorithm_but_not_ours_signs_nothing() {
    for (ours, theirs) in [(Signer::ec(), Signer::ec()), (Signer::ed(), Signer::ed())] {
        let edge = of_jwks(&[ours.jwk(None)]);
        assert_eq!(edge.verify(&theirs.token(&bob())).unwrap_err(), AuthError::BadSignature);
    }
}

#[test]
fn any_changed_part_breaks_the_signature() {
    let signer = Signer::ed();
    let edge = of_jwks(&[signer.jwk(None)]);
    let token = signer.token(&bob());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, payload) = message.split_once('.').unwrap();
    let eve = base64url(json!({"sub": "eve", "exp": seconds_from_now(60)}).to_string());
    let other_header = base64url(json!({"alg": "EdDSA"}).to_string());
    for forged in [
        format!("{header}.{eve}.{signature}"),
        format!("{other_header}.{payload}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.{}", &signature[1..]),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{}", base64url([0; 64])),
    ] {
        assert_eq!(edge.verify(&forged).unwrap_err(), AuthError::BadSignature, "{forged}");
    }
}

#[test]
fn none_is_no_algorithm_in_any_spelling() {
    let signer = Signer::ec();
    let files = Files::new();
    let settings = with_jwks(files.jwks(&[signer.jwk(None)]));
    let edge = config::Auth { hs256_secret: Some(SECRET.to_owned()), ..settings };
    let edge = Authenticator::new(&edge).unwrap();
    for alg in
        ["none", "None", "NONE", "nOnE", "", "hs256", "HS384", "HS512", "RS512", "PS256", "ES384", "Ed25519"]
    {
        let token = unsigned(&json!({"alg": alg}), &bob());
        assert_eq!(edge.verify(&token).unwrap_err(), AuthError::AlgorithmNotAllowed, "{alg}");
        let with_a_signature = format!("{token}{}", base64url([1; 64]));
        assert_eq!(edge.verify(&with_a_signature).unwrap_err(), AuthError::AlgorithmNotAllowed, "{alg}");
    }
    for alg in ["HS256", "ES256"] {
        assert_eq!(
            edge.verify(&unsigned(&json!({"alg": alg}), &bob())).unwrap_err(),
            AuthError::BadSignature
        );
    }
}

/// The classic confusion: a public key, which everybody has, used as the secret of an HMAC.
#[test]
fn a_public_key_is_never_a_secret() {
    for signer in [Signer::rsa(), &Signer::ec(), &Signer::ed()] {
        let pem = signer.public_pem();
        let jwk = signer.jwk(Some("k"));
        let text = jwk.to_string();
        let forms = [pem.as_bytes(), pem.trim_end().as_bytes(), signer.public_raw(), text.as_bytes()];
        let files = Files::new();
        let settings = with_pem(files.write("key.pem", &pem));
        let both = config::Auth { hs256_secret: Some(SECRET.to_owned()), ..settings };
        let both = Authenticator::new(&both).unwrap();
        for form in forms {
            let forged = hs256_by(form, &bob());
            for edge in [of_pem(&pem), of_jwks(std::slice::from_ref(&jwk))] {
                assert_eq!(edge.verify(&forged).unwrap_err(), AuthError::AlgorithmNotAllowed);
            }
            assert_eq!(both.verify(&forged).unwrap_err(), AuthError::BadSignature);
        }
    }
}

#[test]
fn keys_a_token_brings_along_are_not_used() {
    let (ours, theirs) = (Signer::ec(), Signer::ec());
    let edge = of_jwks(&[ours.jwk(Some("ours"))]);
    let forged = theirs.token_with(&bob(), |header| {
        header.kid = Some("ours".to_owned());
        header.jwk = Some(serde_json::from_value(theirs.jwk(Some("ours"))).unwrap());
        header.jku = Some("https://evil.example/jwks.json".to_owned());
    });
    assert_eq!(edge.verify(&forged).unwrap_err(), AuthError::BadSignature);
}

#[test]
fn a_header_with_crit_is_refused() {
    let signer = Signer::ed();
    let edge = of_jwks(&[signer.jwk(None)]);
    let token = signer.token_with(&bob(), |header| header.crit = Some(vec!["b64".to_owned()]));
    assert!(matches!(edge.verify(&token), Err(AuthError::Malformed(_))));
}

#[test]
fn a_crit_of_null_is_there_and_refused() {
    let message = format!("{}.{}", base64url(r#"{"alg":"HS256","crit":null}"#), base64url(bob().to_string()));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    let edge = Authenticator::new(&with_secret()).unwrap();
    assert!(matches!(edge.verify(&format!("{message}.{signature}")), Err(AuthError::Malformed(_))));
}

#[test]
fn kid_picks_the_key_and_without_one_all_are_tried() {
    let (old, new, third) = (Signer::ec(), Signer::ec(), Signer::ec());
    let edge = of_jwks(&[old.jwk(Some("old")), new.jwk(Some("new")), Signer::ed().jwk(Some("ed"))]);
    let signed_as = |signer: &Signer, kid: Option<&str>| {
        edge.verify(&signer.token_with(&bob(), |header| header.kid = kid.map(str::to_owned))).map(|_| ())
    };
    assert_eq!(signed_as(&old, Some("old")), Ok(()));
    assert_eq!(signed_as(&new, Some("new")), Ok(()));
    assert_eq!(signed_as(&new, Some("old")), Err(AuthError::BadSignature));
    assert_eq!(signed_as(&new, Some("gone")), Err(AuthError::UnknownKey));
    assert_eq!(signed_as(&new, Some("ed")), Err(AuthError::UnknownKey));
    assert_eq!(signed_as(&old, None), Ok(()));
    assert_eq!(signed_as(&new, None), Ok(()));
    assert_eq!(signed_as(&third, None), Err(AuthError::BadSignature));
}

#[test]
fn a_key_without_kid_may_be_any_token_s() {
    let signer = Signer::ec();
    let token = signer.token_with(&bob(), |header| header.kid = Some("whatever".to_owned()));
    assert!(of_pem(&signer.public_pem()).verify(&token).is_ok());
    assert!(of_jwks(&[signer.jwk(None)]).verify(&token).is_ok());
}

#[test]
fn time_is_the_clock_s() {
    let edge = Authenticator::new(&with_secret()).unwrap();
    let token = hs256(&json!({"sub": "bob", "exp": seconds_from_now(60), "nbf": seconds_from_now(0)}));
    let now = SystemTime::now();
    assert!(edge.verify_at(&token, now).is_ok());
    assert_eq!(edge.verify_at(&token, now + Duration::from_secs(61)).unwrap_err(), AuthError::Expired);
    assert_eq!(edge.verify_at(&token, now - Duration::from_mins(1)).unwrap_err(), AuthError::NotYetValid);
    assert_eq!(
        edge.verify(&hs256(&json!({"sub": "bob", "exp": seconds_from_now(-1)}))).unwrap_err(),
        AuthError::Expired
    );
}

#[test]
fn issuer_and_audience_come_from_the_configuration() {
    let settings = config::Auth {
        issuer: Some("https://idp.example".to_owned()),
        audience: Some("edge".to_owned()),
        ..with_secret()
    };
    let edge = Authenticator::new(&settings).unwrap();
    let claims = |issuer: &str, audience: Value| json!({"sub": "bob", "exp": seconds_from_now(60), "iss": issuer, "aud": audience});
    assert!(edge.verify(&hs256(&claims("https://idp.example", json!(["a", "edge"])))).is_ok());
    assert_eq!(
        edge.verify(&hs256(&claims("https://evil.example", json!("edge")))).unwrap_err(),
        AuthError::WrongIssuer
    );
    assert_eq!(
        edge.verify(&hs256(&claims("https://idp.example", json!("a")))).unwrap_err(),
        AuthError::WrongAudience
    );
    assert_eq!(edge.verify(&hs256(&bob())).unwrap_err(), AuthError::Missing("iss"));
}

#[test]
fn what_is_no_token_is_malformed() {
    let edge = Authenticator::new(&with_secret()).unwrap();
    let good = hs256(&bob());
    for bad in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "not a token",
        "ä.ö.ü",
        &format!("{good}.x"),
        &format!("{good}.x.y"),
        &format!("{}.e30.AA", base64url("{}")),
        &format!("{}.e30.AA", base64url("[]")),
        &format!("{}.e30.AA", base64url(r#"{"alg":7}"#)),
        &format!("{}.e30.AA", base64url(r#"{"alg":"HS256","alg":"HS256"}"#)),
    ] {
        assert!(matches!(edge.verify(bad), Err(AuthError::Malformed(_))), "{bad}");
    }
    let padded = json!({"sub": "bob", "exp": seconds_from_now(60), "x": "x".repeat(MAX_TOKEN_BYTES)});
    assert_eq!(edge.verify(&hs256(&padded)).unwrap_err(), AuthError::TooLong);
}

#[test]
fn a_set_is_read_for_what_can_verify() {
    let (ec, ed) = (Signer::ec(), Signer::ed());
    let change = |mut jwk: Value, name: &str, value: Value| {
        jwk[name] = value;
        jwk
    };
    let edge = of_jwks(&[
        change(Signer::ec().jwk(Some("enc")), "use", json!("enc")),
        change(Signer::ec().jwk(Some("ops")), "key_ops", json!(["deriveKey"])),
        change(Signer::rsa().jwk(Some("rs512")), "alg", json!("RS512")),
        Signer::ec_p384().jwk(Some("p384")),
        json!({"kty": "oct", "alg": "HS256", "kid": "oct", "k": base64url(SECRET)}),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
        json!({"kty": "RSA", "kid": "incomplete"}),
        json!(7),
        change(change(ec.jwk(Some("ec")), "use", json!("sig")), "alg", json!("ES256")),
        change(ed.jwk(Some("ed")), "key_ops", json!(["verify"])),
    ]);
    assert!(edge.verify(&ec.token(&bob())).is_ok());
    assert!(edge.verify(&ed.token(&bob())).is_ok());
    assert_eq!(edge.verify(&Signer::rsa().token(&bob())).unwrap_err(), AuthError::AlgorithmNotAllowed);
    assert_eq!(edge.verify(&hs256(&bob())).unwrap_err(), AuthError::AlgorithmNotAllowed);
}

#[test]
fn sets_and_files_that_are_no_good_are_errors_that_name_the_key() {
    let files = Files::new();
    let jwks = |keys: &[Value]| key_error(&with_jwks(files.jwks(keys)));
    let pem = |content: &str| key_error(&with_pem(files.write("key.pem", content)));
    let rsa_with = |n: &[u8]| json!({"kty": "RSA", "kid": "weak", "n": base64url(n), "e": "AQAB"});
    let off_curve = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"});
    let private = {
        let mut jwk = Signer::ec().jwk(None);
        jwk["d"] = json!("AA");
        jwk
    };
    let many: Vec<_> = (0..17).map(|_| Signer::ed().jwk(None)).collect();
    let table = [
        (key_error(&config::Auth::default()), "auth.mode"),
        (
            key_error(&config::Auth { hs256_secret: Some("short".to_owned()), ..config::Auth::default() }),
            "5 bytes",
        ),
        (key_error(&with_jwks("/nowhere/jwks.json".into())), "/nowhere/jwks.json"),
        (key_error(&with_jwks(files.write("a", "{"))), "line 1"),
        (key_error(&with_jwks(files.write("b", r#"{"kty":"EC"}"#))), "no JWK set"),
        (key_error(&with_jwks(files.write("c", " ".repeat(1_048_577)))), "larger than"),
        (jwks(&[]), "none of its 0 keys"),
        (jwks(&[json!({"kty": "oct", "k": "AA"})]), "none of its 1 keys"),
        (jwks(&[rsa_with(&[0xff; 128])]), "1024 bits"),
        (jwks(&[rsa_with(&[&[0; 128][..], &[0xff; 255]].concat())]), "2040 bits"),
        (jwks(&[rsa_with(&[0xff; 2048])]), "16384 bits"),
        (jwks(&[rsa_with(&[])]), "0 bits"),
        (jwks(&[off_curve]), "P-256"),
        (jwks(&[private]), "private key"),
        (jwks(&many), "more than 16 keys"),
        (pem(""), "PEM public key"),
        (pem("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"), "PEM public key"),
        (pem(WEAK_RSA), "1024 bits"),
        (pem(&Signer::ec().private_pem()), "private key"),
        (pem(&Signer::ec_p384().public_pem()), "P-256"),
        (pem(&format!("{}{}", Signer::ec().public_pem(), Signer::ed().public_pem())), "PEM public key"),
    ];
    for (error, wanted) in table {
        assert!(error.contains(wanted) && error.contains("auth."), "{wanted}: {error}");
    }
    assert!(Authenticator::new(&with_jwks(files.jwks(&many[..16]))).is_ok());
}

#[test]
fn without_keys_no_token_is_good_and_guests_still_are() {
    let settings = config::Auth { mode: config::AuthMode::Optional, ..config::Auth::default() };
    let edge = Authenticator::new(&settings).unwrap();
    assert_eq!(edge.verify(&hs256(&bob())).unwrap_err(), AuthError::AlgorithmNotAllowed);
}

#[test]
fn a_reload_takes_new_keys_and_keeps_the_old_on_error() {
    let (old, new) = (Signer::ed(), Signer::ed());
    let files = Files::new();
    let path = files.jwks(&[old.jwk(Some("old"))]);
    let edge = Authenticator::new(&with_jwks(path.clone())).unwrap();
    assert_eq!(edge.watched_files(), [path]);
    assert!(edge.verify(&new.token(&bob())).is_err());

    files.jwks(&[new.jwk(Some("new"))]);
    edge.reload().unwrap();
    assert!(edge.verify(&new.token(&bob())).is_ok());
    assert_eq!(edge.verify(&old.token(&bob())).unwrap_err(), AuthError::BadSignature);

    files.write("jwks.json", "half a fi");
    assert!(edge.reload().is_err());
    assert!(edge.verify(&new.token(&bob())).is_ok());
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let settings = with_secret();
    let edge = Authenticator::new(&settings).unwrap();
    assert!(!format!("{edge:?}").contains(SECRET) && !format!("{edge:#?}").contains(SECRET));
    let tokens = [
        hs256(&json!({"sub": "marker-marker", "exp": seconds_from_now(-9)})),
        hs256(&json!({"sub": "guest-marker", "exp": seconds_from_now(9)})),
        hs256(&json!({"sub": 77_777_777, "exp": "marker"})),
        hs256_by(&[9; 32], &json!({"sub": "marker"})),
        unsigned(&json!({"alg": "marker"}), &json!({"sub": "marker"})),
        "marker.marker.marker".to_owned(),
        "marker".repeat(5000),
    ];
    for token in tokens {
        let error = edge.verify(&token).unwrap_err();
        let fault = Fault::from(error);
        assert_eq!(fault.kind, Kind::AuthenticationFailed);
        let shown = format!(
            "{error} {error:?} {fault} {fault:?} {} {}",
            error.reason(),
            serde_json::to_string(&fault).unwrap()
        );
        assert!(!shown.contains("marker") && !shown.contains("77777777"), "{shown}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!shown.contains(part), "{shown}");
        }
    }
}

#[test]
fn an_identity_is_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Identity>();
    is_shared::<Authenticator>();
    is_shared::<Tickets>();
}
