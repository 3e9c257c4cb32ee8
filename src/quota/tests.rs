//! The quotas as a whole, in paused time.

use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::close::Kind;

fn settings() -> config::Quota {
    config::Quota {
        connections_per_ip: 3,
        connects_per_ip_per_minute: 6,
        messages_per_connection_per_minute: 100,
        requests_per_connection_per_minute: 60,
        sends_per_server_per_second: 10,
    }
}

fn quotas() -> Quotas {
    Quotas::new(&settings())
}

fn user(role: Role) -> Identity {
    let mut identity = Identity::guest_of_connection();
    identity.user_id = "bob".into();
    identity.role = role;
    identity
}

fn ip(address: &str) -> Network {
    Network::of(address.parse().unwrap())
}

/// How many pass before the first refusal, and that refusal.
fn burst(mut check: impl FnMut() -> Result<(), Fault>) -> (u32, Fault) {
    for passed in 0..100_000 {
        if let Err(fault) = check() {
            return (passed, fault);
        }
    }
    panic!("never refused");
}

#[tokio::test(start_paused = true)]
async fn a_connection_has_the_minute_at_once_and_then_an_even_rate() {
    let (quotas, quota) = (quotas(), ConnectionQuota::default());
    let bob = user(Role::User);
    let (passed, fault) = burst(|| quota.message(&quotas, &bob));
    assert_eq!(passed, 100);
    assert_eq!((fault.kind, fault.limit), (Kind::RateLimited, Some(MESSAGES)));
    assert_eq!(fault.retry_after, Some(Duration::from_millis(600)));

    advance(Duration::from_millis(350)).await;
    assert_eq!(quota.message(&quotas, &bob).unwrap_err().retry_after, Some(Duration::from_millis(250)));
    advance(Duration::from_millis(250)).await;
    assert_eq!(burst(|| quota.message(&quotas, &bob)).0, 1);
    advance(Duration::from_mins(10)).await;
    assert_eq!(burst(|| quota.message(&quotas, &bob)).0, 100);
}

#[tokio::test(start_paused = true)]
async fn messages_and_requests_of_a_connection_are_apart_and_its_own() {
    let quotas = quotas();
    let (one, two) = (ConnectionQuota::default(), ConnectionQuota::default());
    let bob = user(Role::User);
    assert_eq!(burst(|| one.message(&quotas, &bob)).0, 100);
    let (passed, fault) = burst(|| one.request(&quotas));
    assert_eq!((passed, fault.limit), (60, Some(REQUESTS)));
    assert_eq!(fault.retry_after, Some(Duration::from_secs(1)));
    assert_eq!(burst(|| two.message(&quotas, &bob)).0, 100);
}

#[tokio::test(start_paused = true)]
async fn a_server_has_one_quota_by_the_second_over_everything() {
    let quotas = quotas();
    let (one, two, server) = (ConnectionQuota::default(), ConnectionQuota::default(), user(Role::Server));
    for _ in 0..5 {
        one.message(&quotas, &server).unwrap();
        two.message(&quotas, &server).unwrap();
    }
    for fault in [one.message(&quotas, &server), two.message(&quotas, &server), quotas.of(&server).message()]
    {
        let fault = fault.unwrap_err();
        assert_eq!((fault.limit, fault.retry_after), (Some(SERVER_SENDS), Some(Duration::from_millis(100))));
    }
    advance(Duration::from_secs(1)).await;
    assert_eq!(burst(|| two.message(&quotas, &server)).0, 10);
    // The same token, renewed as a user's: its connection's own quota, still whole.
    assert_eq!(burst(|| two.message(&quotas, &user(Role::User))).0, 100);
}

#[tokio::test(start_paused = true)]
async fn http_counts_by_user() {
    let quotas = quotas();
    assert_eq!(burst(|| quotas.user("bob").message()).0, 100);
    assert_eq!(burst(|| quotas.user("bob").request()).0, 60);
    assert_eq!(burst(|| quotas.user("eve").message()).0, 100);
    assert!(quotas.of(&user(Role::User)).message().is_err());
    assert!(quotas.server("bob").message().is_ok(), "a backend of that name is not bob");
    assert!(ConnectionQuota::default().message(&quotas, &user(Role::User)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_address_is_refused_beyond_its_connections_and_dropped_beyond_twice() {
    let quotas = Quotas::new(&config::Quota { connects_per_ip_per_minute: 0, ..settings() });
    for number in 1..=6 {
        match quotas.connect(ip("2001:db8::1")) {
            Admission::Admitted if number <= 3 => {}
            Admission::Refused(fault) if number > 3 => {
                assert_eq!((fault.kind, fault.limit), (Kind::RateLimited, Some(CONNECTIONS)));
            }
            other => panic!("{number}: {other:?}"),
        }
    }
    assert!(matches!(quotas.connect(ip("2001:db8::2")), Admission::Dropped(_)), "the same /64");
    assert!(matches!(quotas.connect(ip("2001:db8:0:1::1")), Admission::Admitted));
    (0..6).for_each(|_| quotas.disconnect(ip("2001:db8::1")));
    assert!(matches!(quotas.connect(ip("2001:db8::1")), Admission::Admitted));
}

#[tokio::test(start_paused = true)]
async fn an_address_is_refused_beyond_its_rate_and_dropped_beyond_twice() {
    let quotas = quotas();
    for number in 1..=12 {
        match quotas.connect(ip("192.0.2.1")) {
            Admission::Admitted if number <= 6 => {}
            Admission::Refused(fault) if number > 6 => {
                assert_eq!((fault.limit, fault.retry_after), (Some(CONNECTS), Some(Duration::from_secs(10))));
            }
            other => panic!("{number}: {other:?}"),
        }
        quotas.disconnect(ip("192.0.2.1"));
    }
    assert!(matches!(quotas.connect(ip("192.0.2.1")), Admission::Dropped(_)));
    assert!(matches!(quotas.connect(ip("192.0.2.2")), Admission::Admitted));
    advance(Duration::from_secs(10)).await;
    assert!(matches!(quotas.connect(ip("192.0.2.1")), Admission::Admitted));
    assert!(matches!(quotas.connect(ip("192.0.2.1")), Admission::Refused(..)));
}

#[tokio::test(start_paused = true)]
async fn zero_turns_each_off() {
    let quotas = Quotas::new(&config::Quota {
        connections_per_ip: 0,
        connects_per_ip_per_minute: 0,
        messages_per_connection_per_minute: 0,
        requests_per_connection_per_minute: 0,
        sends_per_server_per_second: 0,
    });
    let quota = ConnectionQuota::default();
    let (bob, server) = (user(Role::User), user(Role::Server));
    for _ in 0..10_000 {
        assert!(
            quota.message(&quotas, &bob).is_ok()
                && quota.message(&quotas, &server).is_ok()
                && quota.request(&quotas).is_ok()
        );
        assert!(quotas.of(&bob).message().is_ok() && quotas.of(&server).request().is_ok());
        match quotas.connect(ip("192.0.2.1")) {
            Admission::Admitted => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(quotas.tracked_keys(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_forgets_whole_quotas_and_keeps_used_ones() {
    let quotas = quotas();
    for user in 0..1000 {
        quotas.user(&format!("user {user}")).message().unwrap();
    }
    assert!(matches!(quotas.connect(ip("192.0.2.1")), Admission::Admitted));
    quotas.disconnect(ip("192.0.2.1"));
    burst(|| quotas.user("bob").message());
    assert_eq!(quotas.tracked_keys(), 1003);
    advance(Duration::from_secs(20)).await;
    quotas.sweep();
    assert_eq!(quotas.tracked_keys(), 1);
    let (passed, _) = burst(|| quotas.user("bob").message());
    assert_eq!(passed, 33);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_users_stays_bounded_and_locks_nobody_out() {
    let quotas = quotas();
    burst(|| quotas.user("bob").message());
    for user in 0..(3 * MAX_KEYS) {
        assert!(quotas.user(&user.to_string()).message().is_ok());
        if user % 10_000 == 0 {
            assert!(quotas.user("bob").message().is_err(), "still remembered");
        }
    }
    assert!(quotas.tracked_keys() <= MAX_KEYS);
}

#[test]
fn a_connection_carries_little() {
    assert_eq!(size_of::<ConnectionQuota>(), 16);
}

#[test]
fn limits_are_named_as_the_configuration_names_them() {
    // Parsed by the configuration's own type, which refuses unknown keys.
    for key in [CONNECTIONS, CONNECTS, MESSAGES, REQUESTS, SERVER_SENDS] {
        let (section, name) = key.split_once('.').unwrap();
        assert!(toml::from_str::<config::Config>(&format!("[{section}]\n{name} = 7")).is_ok(), "{key}");
    }
}
