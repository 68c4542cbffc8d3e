//! The layer: what it lets through, and with which words it refuses the rest.

use super::fake::*;
use axum::Router;
use axum::body::{Body, Bytes};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use oda_consensus::ids::{PaymentHash, Preimage};
use oda_lightning::l402::*;
use std::sync::Arc;
use tower::ServiceExt as _;

const HASH: fn(u8) -> PaymentHash = |n| Preimage([n; 32]).payment_hash();

/// A token of this service for payment `n` with these caveats.
fn token(n: u8, caveats: &[(&str, &str)]) -> Token {
    let token_id = TokenId([n; 32]);
    let key = keys().root_key(&token_id).unwrap();
    let token = Token::mint(&key, "train", Identifier { payment_hash: HASH(n), token_id }).unwrap();
    caveats.iter().fold(token, |token, (key, value)| token.restrict(key, value).unwrap())
}

const GOOD: [(&str, &str); 3] =
    [("services", "train:0"), ("train_capabilities", "submit,other"), ("train_valid_until", "1800003600")];

fn paid(n: u8, caveats: &[(&str, &str)]) -> Credential {
    Credential { token: token(n, caveats), preimage: Preimage([n; 32]) }
}

fn and(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GOOD[..], more].concat()
}

async fn send(app: &Router, path: &str, authorization: &[String]) -> Response<Body> {
    let mut request: Request<Full<Bytes>> = request(path);
    for value in authorization {
        request.headers_mut().append(AUTHORIZATION, value.parse().unwrap());
    }
    app.clone().oneshot(request).await.unwrap()
}

async fn code(app: &Router, path: &str, authorization: &[String]) -> String {
    let response = send(app, path, authorization).await;
    match response.status() {
        StatusCode::OK => "served".into(),
        StatusCode::PAYMENT_REQUIRED => {
            let code = response.headers()[ERROR_HEADER].to_str().unwrap().to_owned();
            assert!(Challenge::from_headers(response.headers()).unwrap().is_some(), "always a new challenge");
            assert!(body_of(response).await.len() > 20, "and a reason in words");
            code
        }
        other => format!("{other}"),
    }
}

async fn judge_of(app: &Router, credential: &Credential) -> String {
    code(app, "/submit", &[format!("L402 {}", credential.to_text().unwrap())]).await
}

#[test]
fn a_challenge_names_both_schemes_and_commits_to_its_invoice() {
    run(async {
        let fake = Fake::new();
        let response = send(&app(&fake), "/submit", &[]).await;
        assert_eq!(response.status(), StatusCode::PAYMENT_REQUIRED);
        let values: Vec<_> = response.headers().get_all(WWW_AUTHENTICATE).iter().map(|v| v.to_str().unwrap()).collect();
        assert!(values[0].starts_with("L402 macaroon=\"") && values[1].starts_with("LSAT macaroon=\""), "{values:?}");
        assert!(values[0].contains("\", invoice=\"lnbcrt"), "{values:?}");
        let challenge = Challenge::from_headers(response.headers()).unwrap().unwrap();
        let terms = fake.decode(&challenge.bolt11).unwrap();
        assert_eq!(terms.payment_hash, challenge.token.identifier().payment_hash);
        assert_eq!(terms.amount_msat, Some(PRICE_MSAT));
        let caveats = [("services", "train:0"), ("train_capabilities", "submit"), ("train_valid_until", "1800003600")];
        assert_eq!(challenge.token.caveats().unwrap(), caveats);
        assert_eq!(response.headers()[ERROR_HEADER], "missing");
        assert!(body_of(send(&app(&fake), "/free", &[]).await).await == "true", "free and without the extension");
    });
}

#[test]
fn good_tokens_are_served_under_either_name() {
    run(async {
        let app = app(&Fake::new());
        let text = paid(1, &GOOD).to_text().unwrap();
        for scheme in ["L402", "LSAT", "l402", "lsat"] {
            assert_eq!(code(&app, "/submit", &[format!("{scheme} {text}")]).await, "served", "{scheme}");
        }
        let both = [format!("LSAT {text}"), format!("L402 {text}")];
        assert_eq!(code(&app, "/submit", &both).await, "served", "as Aperture's client sends it");
        let beside = ["Basic dTpw".to_string(), format!("L402 {text}")];
        assert_eq!(code(&app, "/submit", &beside).await, "served", "beside another scheme");
        let url_safe = text.replace('+', "-").replace('/', "_").replace('=', "");
        assert_eq!(code(&app, "/submit", &[format!("L402 {url_safe}")]).await, "served", "base64 as it comes");
        let response = send(&app, "/submit", &[format!("L402 {text}")]).await;
        assert_eq!(body_of(response).await, format!("{} work", HASH(1)), "the handler knows what was paid");
    });
}

#[test]
fn malformed_credentials_are_refused_with_a_reason() {
    run(async {
        let app = app(&Fake::new());
        let good = paid(1, &GOOD).to_text().unwrap();
        let other = paid(2, &GOOD).to_text().unwrap();
        let (macaroon, preimage) = good.split_once(':').unwrap();
        let cases = [
            ("".to_string(), "missing"),
            ("L402".into(), "missing"),
            ("Bearer x".into(), "missing"),
            ("L402 x".into(), "malformed"),
            (format!("L402 {macaroon}"), "malformed"),
            (format!("L402 {macaroon}:"), "malformed"),
            (format!("L402 {macaroon}:{}", &preimage[1..]), "malformed"),
            (format!("L402 {macaroon}:{}", "zz".repeat(32)), "malformed"),
            (format!("L402 :{preimage}"), "malformed"),
            (format!("L402 {}:{preimage}", &macaroon[..40]), "malformed"),
            (format!("L402 {macaroon},{macaroon}:{preimage}"), "several-macaroons"),
            (format!("L402 {}:{preimage}", "A".repeat(20_000)), "too-long"),
        ];
        for (header, expected) in cases {
            assert_eq!(code(&app, "/submit", std::slice::from_ref(&header)).await, expected, "{header}");
        }
        let two = [format!("L402 {good}"), format!("L402 {other}")];
        assert_eq!(code(&app, "/submit", &two).await, "several-macaroons");
    });
}

#[test]
fn a_token_cut_at_any_byte_is_answered_with_a_challenge() {
    run(async {
        let app = app(&Fake::new());
        let text = paid(1, &GOOD).to_text().unwrap();
        let (macaroon, preimage) = text.split_once(':').unwrap();
        for end in 0..macaroon.len() {
            let found = code(&app, "/submit", &[format!("L402 {}:{preimage}", &macaroon[..end])]).await;
            // without its padding alone it is still whole
            let whole = macaroon[end..].bytes().all(|b| b == b'=');
            assert_eq!(found, if whole { "served" } else { "malformed" }, "cut at {end}");
        }
    });
}

/// bLIP-26: the preimage proves the payment of this very token.
#[test]
fn a_preimage_serves_its_own_token_only() {
    run(async {
        let app = app(&Fake::new());
        for preimage in [[0; 32], [2; 32], HASH(1).0] {
            let credential = Credential { token: token(1, &GOOD), preimage: Preimage(preimage) };
            assert_eq!(judge_of(&app, &credential).await, "wrong-preimage");
        }
    });
}

#[test]
fn a_foreign_or_forged_token_is_refused() {
    run(async {
        let app = app(&Fake::new());
        let sign = |key: &RootKey| {
            let identifier = Identifier { payment_hash: HASH(1), token_id: TokenId([1; 32]) };
            GOOD.iter().fold(Token::mint(key, "train", identifier).unwrap(), |t, (k, v)| t.restrict(k, v).unwrap())
        };
        let others = DerivedRootKeys::new(zeroize::Zeroizing::new([0x78; 32]));
        let (here, there) = (keys().root_key(&TokenId([2; 32])).unwrap(), others.root_key(&TokenId([1; 32])).unwrap());
        for key in [here, there] {
            let credential = Credential { token: sign(&key), preimage: Preimage([1; 32]) };
            assert_eq!(judge_of(&app, &credential).await, "bad-signature");
        }
        let mut third = libmacaroon::Macaroon::create(None, &[1; 32].into(), [0; 66]).unwrap();
        third.add_third_party_caveat("elsewhere", &[2; 32].into(), "who").unwrap();
        let text = third.serialize(libmacaroon::Format::V2).unwrap();
        let preimage = hex::encode([1; 32]);
        assert_eq!(code(&app, "/submit", &[format!("L402 {text}:{preimage}")]).await, "unknown-caveat");
    });
}

/// bLIP-26, Attenuation Through Caveats; which unknown ones count is said in `caveat.rs`.
#[test]
fn caveats_restrict_and_never_widen() {
    run(async {
        let app = app(&Fake::new());
        let served = [
            and(&[]),
            and(&[("train_capabilities", "submit")]),
            and(&[("train_capabilities", "submit,other"), ("train_valid_until", "1800000001")]),
            and(&[("services", "train:0")]),
            and(&[("trainer_capabilities", "none"), ("colour", "red"), ("loop_out_monthly_volume_sats", "1")]),
            vec![("services", "train:0,loop:1"), GOOD[2], ("services", "train:0")],
            vec![("services", "train:0"), GOOD[2]], // no list of capabilities: all of them
            vec![("services ", " train:0"), ("train_valid_until", " 1800003600 ")],
        ];
        for caveats in served {
            assert_eq!(judge_of(&app, &paid(1, &caveats)).await, "served", "{caveats:?}");
        }
        let refused = [
            (and(&[("train_capabilities", "other")]), "not-allowed"),
            (and(&[("train_capabilities", "")]), "not-allowed"),
            (and(&[("train_capabilities", "submit,status")]), "widened"),
            (and(&[("train_capabilities", "other"), ("train_capabilities", "submit,other")]), "widened"),
            (and(&[("train_valid_until", "1800003601")]), "widened"),
            (and(&[("train_valid_until", "1800000001"), ("train_valid_until", "1800003600")]), "widened"),
            (and(&[("services", "train:0,loop:0")]), "widened"),
            (and(&[("services", "train:1")]), "widened"),
            (and(&[("train_valid_until", "1800000000")]), "expired"),
            (and(&[("train_valid_until", "0")]), "expired"),
            (and(&[("train_valid_until", "soon")]), "malformed"),
            (and(&[("train_valid_until", "-1")]), "malformed"),
            (and(&[("train_valid_until", "18446744073709551616")]), "malformed"),
            (and(&[("services", "train")]), "malformed"),
            (and(&[("train_max_claims", "3")]), "unknown-caveat"),
            (and(&[("submit_max_bytes", "3")]), "unknown-caveat"),
            (vec![("services", "loop:0"), GOOD[1], GOOD[2]], "other-service"),
            (vec![GOOD[1], GOOD[2]], "no-caveat"),
            (vec![GOOD[0], GOOD[1]], "no-caveat"),
        ];
        for (caveats, expected) in refused {
            assert_eq!(judge_of(&app, &paid(1, &caveats)).await, expected, "{caveats:?}");
        }
        let text = paid(1, &GOOD).to_text().unwrap();
        assert_eq!(code(&app, "/status", &[format!("L402 {text}")]).await, "not-allowed");
    });
}

#[test]
fn a_token_expires_to_the_millisecond() {
    run(async {
        let fake = Fake::new();
        let app = app(&fake);
        fake.later(3_599_999);
        assert_eq!(judge_of(&app, &paid(1, &GOOD)).await, "served");
        fake.later(1);
        assert_eq!(judge_of(&app, &paid(1, &GOOD)).await, "expired");
    });
}

#[test]
fn a_revoked_token_is_refused_and_forgotten_only_when_it_expired() {
    run(async {
        let fake = Fake::new();
        let revocations = Arc::new(MemoryRevocations::new(2));
        let app = app_with(&fake, Arc::clone(&revocations) as Arc<dyn Revocations>);
        let (a, b, c) = (TokenId([1; 32]), TokenId([2; 32]), TokenId([3; 32]));
        assert_eq!(revocations.revoke(a, 1_800_003_600, NOW_MS), Ok(true));
        assert_eq!(revocations.revoke(a, 1_800_003_600, NOW_MS), Ok(false), "used up once only");
        assert_eq!(judge_of(&app, &paid(1, &GOOD)).await, "revoked");
        assert_eq!(judge_of(&app, &paid(2, &GOOD)).await, "served");
        assert_eq!(revocations.revoke(b, 1_800_000_001, NOW_MS), Ok(true));
        assert_eq!(revocations.revoke(c, 1_800_003_600, NOW_MS), Err(RevocationsFull(2)), "bounded");
        assert_eq!(judge_of(&app, &paid(1, &GOOD)).await, "revoked", "a full list forgets nobody");
        assert_eq!(revocations.revoke(c, 1_800_003_600, NOW_MS + 1_000), Ok(true), "in place of one that expired");
        assert_eq!(revocations.len(), 2);
        assert_eq!(revocations.revoke(b, 1_800_000_001, NOW_MS + 1_000), Ok(false), "expired tokens take no room");
    });
}

#[test]
fn without_an_invoice_the_answer_is_503() {
    struct Broken;
    impl Issuer for Broken {
        async fn invoice(&self, _: u64, _: &str, _: u32) -> Result<IssuedInvoice, BoxError> {
            Err("the wallet is stopped".into())
        }
    }
    run(async {
        let layer = L402Layer::new(Terms::new("train"), secret(), Broken, tariff).unwrap();
        let response = send(&router().layer(layer), "/submit", &[]).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!body_of(response).await.contains("stopped"), "the inside stays inside");
        assert!(L402Layer::new(Terms::new("a=b"), secret(), Broken, tariff).is_err());
    });
}
