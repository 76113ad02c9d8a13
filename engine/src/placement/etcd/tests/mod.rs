//! On a real etcd: the contract of a placement, etcd's crashes and hangs, watches with gaps, and who may ask.

mod engines;
mod faults;
mod server;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use watershed_wal::{Epoch, InstanceId};

use self::server::{Certificates, Etcd, free_port};
use super::*;
use crate::placement::contract::{
    self, LONG, at, contract_tests, created, member, next, node, told_until, wait,
};

contract_tests!(Etcd::start());

#[test]
fn a_renewal_is_no_change() {
    // A member's key, and that of its life.
    contract::a_renewal_is_no_change(&Etcd::start(), 2);
}

#[test]
fn options_that_cannot_be_meant_are_refused_before_anything_is_asked() {
    let missing = EtcdTls {
        authority: "/nowhere/ca.pem".into(),
        certificate: None,
        key: None,
    };
    let secure = EtcdOptions::new(["https://127.0.0.1:1"]);
    let half = EtcdTls {
        certificate: Some("/nowhere/a.pem".into()),
        ..missing.clone()
    };
    let none: [&str; 0] = [];
    let cases = [
        (EtcdOptions::new(none), "without an endpoint"),
        (
            EtcdOptions::new(["127.0.0.1:2379"]),
            "write http://HOST:PORT",
        ),
        (
            EtcdOptions::new(["http://127.0.0.1"]),
            "write http://HOST:PORT",
        ),
        (EtcdOptions::new(["http://a b:1"]), "write http://HOST:PORT"),
        (EtcdOptions::new(["http://a:1"]).prefix("//"), "name one"),
        (secure.clone(), "needs the certificate of etcd's authority"),
        (
            EtcdOptions::new(["http://a:1"]).tls(missing.clone()),
            "write https://",
        ),
        (secure.clone().tls(half), "needs its key"),
        (secure.tls(missing), "read /nowhere/ca.pem"),
    ];
    for (options, expected) in cases {
        let refused = wait(EtcdPlacement::connect(options.clone())).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(expected), "{options:?}: {text}");
        assert!(!matches!(refused, PlacementError::Unreachable { .. }));
    }
    let shown = format!("{:?}", EtcdOptions::new(["http://a:1"]).user("u", "secret"));
    assert!(!shown.contains("secret"), "{shown}");
}

#[test]
fn without_etcd_a_start_says_where_it_looked() {
    let ports = [free_port(), free_port()];
    let endpoints = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let failed = wait(EtcdPlacement::connect(EtcdOptions::new(endpoints.clone())));
    let Err(PlacementError::Unreachable { reason }) = failed else {
        panic!("{failed:?}");
    };
    for endpoint in endpoints {
        assert!(reason.contains(&endpoint), "{reason}");
    }
    assert!(reason.contains("refused"), "{reason}");
}

#[test]
fn an_endpoint_that_is_down_makes_way_for_one_that_is_up() {
    let etcd = Etcd::start();
    let down = || format!("http://127.0.0.1:{}", free_port());
    let options = EtcdOptions::new([down(), etcd.endpoint(), down()]);
    let placement = wait(EtcdPlacement::connect(options)).unwrap();
    for shard in 0..50 {
        wait(placement.swap(None, created(shard))).unwrap();
        wait(placement.read(ShardId(shard))).unwrap();
    }
    assert_eq!(wait(placement.list()).unwrap().len(), 50);
}

#[test]
fn clusters_under_different_prefixes_do_not_meet() {
    let etcd = Etcd::start();
    let under = |prefix: &str| wait(EtcdPlacement::connect(etcd.options().prefix(prefix))).unwrap();
    let (one, other, same) = (under("/one"), under("/one-more/"), under("/one/"));
    wait(one.swap(None, created(1))).unwrap();
    wait(one.announce(node("a"), at("[::1]:1"), LONG)).unwrap();
    assert!(wait(other.list()).unwrap().is_empty() && wait(other.members()).unwrap().is_empty());
    assert_eq!(wait(same.list()).unwrap(), [created(1)]);
    assert_eq!(
        *other.watch().borrow(),
        0,
        "nor are they told of each other"
    );
}

#[test]
fn what_another_version_or_program_wrote_is_refused_by_name() {
    let etcd = Etcd::start();
    let placement = etcd.connect();
    let put = |key: &str, value: &[u8]| {
        etcd.operate(async |client| client.put(key, value, None).await.unwrap());
    };
    put("/watershed/shards/00000000000000000001", b"hello");
    let refused = wait(placement.read(ShardId(1))).unwrap_err().to_string();
    assert!(
        refused.contains("etcd:/watershed/shards/00000000000000000001"),
        "{refused}"
    );
    assert!(wait(placement.list()).is_err());
    assert!(
        wait(placement.swap(None, created(1))).is_err(),
        "nor overwritten"
    );
    let of_two = serde_json::to_vec(&crate::placement::map::Entry::Record(Box::new(created(2))));
    put("/watershed/shards/00000000000000000001", &of_two.unwrap());
    let refused = wait(placement.read(ShardId(1))).unwrap_err().to_string();
    assert!(refused.contains("it is of shard 2"), "{refused}");
    put("/watershed/format", b"2");
    let refused = wait(EtcdPlacement::connect(etcd.options()));
    assert!(
        matches!(
            refused,
            Err(PlacementError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_swap_compares_the_record_and_not_only_what_etcd_calls_its_revision() {
    let etcd = Etcd::start();
    let placement = etcd.connect();
    let first = wait(placement.swap(None, created(1))).unwrap();
    // Another record takes its place behind the back of who has seen the first: its swap must not pass.
    let other = next(&first, 99);
    let value = crate::placement::map::Entry::Record(Box::new(other.clone()));
    let value = serde_json::to_vec(&value).unwrap();
    let key = "/watershed/shards/00000000000000000001";
    etcd.operate(async |client| {
        let exists = Compare::version(key, CompareOp::Greater, 0);
        let txn = Txn::new()
            .when([exists])
            .and_then([TxnOp::put(key, value, None)]);
        assert!(client.txn(txn).await.unwrap().succeeded());
    });
    match wait(placement.swap(Some(first.revision), next(&first, 5))) {
        Err(PlacementError::Conflict { current, .. }) => {
            assert_eq!(current.as_deref(), Some(&other));
        }
        swapped => panic!("{swapped:?}"),
    }
    let third = next(&other, 6);
    let stored = wait(placement.swap(Some(other.revision), third.clone())).unwrap();
    assert_eq!((stored.epoch, stored.instance), (Epoch(3), InstanceId(6)));
}

#[test]
fn a_node_that_was_removed_or_whose_life_another_holds_joins_again_by_renewing() {
    let etcd = Etcd::start();
    let (a, b) = (etcd.connect(), etcd.connect());
    let announce = |placement: &EtcdPlacement| {
        wait(placement.announce(node("a"), at("[::1]:1"), LONG)).unwrap();
    };
    announce(&a);
    wait(b.remove_member(node("a"))).unwrap();
    announce(&a);
    assert!(member(&b, "a").unwrap().alive);
    // The same node, started again: its new life does not end with the old one's lease.
    announce(&b);
    wait(a.announce(node("a"), at("[::1]:1"), Duration::from_secs(2))).unwrap();
    announce(&b);
    etcd.operate(async |client| {
        // Whatever leases there are besides those that count.
        let leases = client.leases().await.unwrap();
        let kept = client.get("/watershed/alive/a", None).await.unwrap();
        let counts = kept.kvs()[0].lease();
        for lease in leases.leases().iter().filter(|lease| lease.id() != counts) {
            client.lease_revoke(lease.id()).await.unwrap();
        }
    });
    assert!(member(&a, "a").unwrap().alive);
    announce(&a);
    announce(&b);
    assert!(member(&a, "a").unwrap().alive);
}

#[test]
fn a_user_is_asked_for_and_a_wrong_one_refused() {
    let etcd = Etcd::start();
    etcd.operate(async |client| {
        client.user_add("root", "secret", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.auth_enable().await.unwrap();
    });
    let connect = |options: EtcdOptions| wait(EtcdPlacement::connect(options));
    let refused = connect(etcd.options().user("root", "wrong")).unwrap_err();
    assert!(
        refused.to_string().contains("authentication failed"),
        "{refused}"
    );
    let refused = connect(etcd.options()).unwrap_err();
    assert!(refused.to_string().contains("user name"), "{refused}");
    let placement = connect(etcd.options().user("root", "secret")).unwrap();
    let first = wait(placement.swap(None, created(1))).unwrap();
    told_until(&placement, |p| wait(p.read(ShardId(1))).unwrap());
    wait(placement.announce(node("a"), at("[::1]:1"), LONG)).unwrap();
    assert!(member(&placement, "a").unwrap().alive);
    wait(placement.swap(Some(first.revision), next(&first, 2))).unwrap();
}

#[test]
fn with_certificates_both_sides_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let ours = certificates(dir.path(), "ours");
    let others = certificates(dir.path(), "others");
    let etcd = Etcd::start_with(Some(ours.clone()));
    let connect = |authority: &Certificates, own: Option<&Certificates>| {
        let tls = EtcdTls {
            authority: authority.authority.clone(),
            certificate: own.map(|own| own.certificate.clone()),
            key: own.map(|own| own.key.clone()),
        };
        let options = etcd.options().tls(tls).timeout(Duration::from_secs(1));
        wait(EtcdPlacement::connect(options))
    };
    // It may take a moment to listen.
    let placement = loop {
        match connect(&ours, Some(&ours)) {
            Ok(placement) => break placement,
            Err(PlacementError::Unreachable { reason }) => {
                assert!(!reason.contains("ertificate"), "{reason}");
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
    };
    wait(placement.swap(None, created(1))).unwrap();
    assert_eq!(wait(placement.list()).unwrap(), [created(1)]);
    for (authority, own) in [
        (&others, Some(&ours)),
        (&ours, Some(&others)),
        (&ours, None),
    ] {
        let refused = connect(authority, own);
        assert!(
            matches!(refused, Err(PlacementError::Unreachable { .. })),
            "{refused:?}"
        );
    }
}

/// An authority, and a certificate of it for 127.0.0.1, for either side.
fn certificates(dir: &std::path::Path, name: &str) -> Certificates {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let signed = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let write = |what: &str, pem: String| {
        let path = dir.join(format!("{name}-{what}"));
        std::fs::write(&path, pem).unwrap();
        path
    };
    Certificates {
        authority: write("ca.pem", signed.pem()),
        certificate: write("cert.pem", certificate.pem()),
        key: write("key.pem", key.serialize_pem()),
    }
}

#[test]
fn it_serves_callers_in_any_runtime_and_in_none() {
    let etcd = Etcd::start();
    let placement = etcd.connect();
    wait(placement.swap(None, created(1))).unwrap();
    let without_timers = Builder::new_current_thread().build().unwrap();
    let dropped_inside = without_timers.block_on(async {
        let another = EtcdPlacement::connect(etcd.options()).await.unwrap();
        another.read(ShardId(1)).await.unwrap()
    });
    assert_eq!(dropped_inside, Some(created(1)));
    // Its watchers learn that there is nothing to wait for any more.
    let mut changes = placement.watch();
    let waiter = std::thread::spawn(move || while wait(changes.changed()).is_ok() {});
    drop(placement);
    waiter.join().unwrap();
}

/// Keys that are bound to a lease of a second, put by somebody else, as noise for a watch.
fn noise(etcd: &Etcd, key: &str) {
    etcd.operate(async |client| {
        let lease = client.lease_grant(1, None).await.unwrap().id();
        let bound = PutOptions::new().with_lease(lease);
        client.put(key, "", Some(bound)).await.unwrap();
    });
}
