//! A target whose disk is too small, or becomes so while it copies: the migration ends at once, says which node needs how
//! much, and leaves nothing there.
//!
//! The work is done by a process of its own, in a small file system that only it sees.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use support::{World, quick, wait_until};
use watershed::migration::{Limits, MigrationConfig};
use watershed::{Durability, Engine, Error, Migration, ShardId};

/// Where the child finds its file system.
const PLACE: &str = "WATERSHED_TEST_PLACE";
/// What the child's shell ends with where no file system may be mounted.
const NOT_ALLOWED: i32 = 77;
const SHARD: ShardId = ShardId(0);
const MIB: u64 = 1 << 20;

fn open(world: &World, name: &str, dir: &Path) -> Engine {
    let options = Engine::options()
        .node(name)
        .shards(1)
        .cluster(&world.cluster)
        .segment_bytes(256 << 10)
        .log_limit_bytes(24 << 20)
        .write_buffer_bytes(4 << 20);
    options.open(dir).unwrap()
}

/// Bytes that don't compress.
fn load(engine: &Engine, megabytes: u64) {
    let mut random = 1_u64;
    for number in 0..megabytes * 64 {
        let next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005) + 1;
            (random >> 33) as u8
        };
        let value: Vec<u8> = std::iter::repeat_with(next).take(16 << 10).collect();
        let put = || {
            let put = engine.put(format!("k{number}"), &value);
            put.durability(Durability::Buffered).wait().is_ok()
        };
        // So small a log is full for a moment now and then: it is flushed meanwhile.
        wait_until("a write", put);
    }
}

fn free_bytes(place: &Path) -> u64 {
    let told = Command::new("stat")
        .args(["-f", "-c", "%a %S"])
        .arg(place)
        .output();
    let told = String::from_utf8(told.unwrap().stdout).unwrap();
    let numbers: Vec<u64> = told
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    numbers[0] * numbers[1]
}

/// Takes room until so many bytes are free.
fn leave(place: &Path, bytes: u64) {
    let mut ballast = File::create(place.join("ballast")).unwrap();
    let page = [1; 64 << 10];
    while free_bytes(place) > bytes + page.len() as u64 {
        ballast.write_all(&page).unwrap();
    }
}

/// Ended for want of room at the target, and nothing of it is left there.
fn ended(migration: &Migration, b: &Path) {
    let error = migration.wait().unwrap_err();
    assert!(matches!(error, Error::MigrationAborted { .. }), "{error:?}");
    let reason = error.to_string();
    assert!(
        reason.contains("node b has ")
            && reason.contains("bytes to spare")
            && reason.contains("make room"),
        "{reason}"
    );
    wait_until("nothing of the copy is left", || {
        let names = |place| fs::read_dir(b.join(place)).map_or(0, Iterator::count);
        names("incoming") + names("shards") == 0
    });
}

/// Runs in a process of its own; by itself it has nothing to do.
#[test]
fn child() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let place = Path::new(&place);
    let world = World::new(1);
    let (a_dir, b_dir) = (world.path("a"), place.join("b"));
    let (a, b) = (open(&world, "a", &a_dir), open(&world, "b", &b_dir));
    load(&a, 12);

    leave(place, 20 * MIB);
    let planned = a.migrate(SHARD).to("b").plan();
    assert!(
        matches!(&planned, Err(Error::Options { what }) if what.contains("node b has")),
        "{planned:?}"
    );
    let migration = a.migrate(SHARD).to("b").config(quick()).start().unwrap();
    ended(&migration, &b_dir);

    // There is room at first, and others take it meanwhile.
    fs::remove_file(place.join("ballast")).unwrap();
    let slow = MigrationConfig {
        rate_bytes_per_s: Some(1024),
        ..quick()
    };
    let migration = a.migrate(SHARD).to("b").config(slow).start().unwrap();
    wait_until("the copy has begun", || {
        migration.progress().copied_bytes > 0
    });
    leave(place, 17 * MIB);
    let full_speed = Limits {
        rate_bytes_per_s: Some(None),
        pause_max_ms: None,
    };
    migration.set_limits(full_speed).unwrap();
    ended(&migration, &b_dir);

    fs::remove_file(place.join("ballast")).unwrap();
    let migration = a.migrate(SHARD).to("b").config(quick()).start().unwrap();
    migration.finished().unwrap();
    assert!(b.get("k1").wait().unwrap().is_some());
}

#[test]
fn a_target_with_too_little_room_ends_it_and_keeps_nothing() {
    let place = tempfile::tempdir().unwrap();
    let mount = format!("mount -t tmpfs -o size=96m none \"${PLACE}\" || exit {NOT_ALLOWED}");
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg(format!("{mount}; exec \"$0\" --exact child --nocapture"))
        .arg(std::env::current_exe().unwrap())
        .env(PLACE, place.path())
        .status();
    match status.ok().and_then(|status| status.code()) {
        Some(0) => {}
        None | Some(NOT_ALLOWED | 1) if !may_mount() => {
            println!(
                "no file system may be mounted here: the arithmetic is tested in migrate/room.rs"
            );
        }
        other => panic!("the child ended with {other:?}"),
    }
}

/// Whether this account may have a file system of its own.
fn may_mount() -> bool {
    let mut shell = Command::new("unshare");
    let tried = shell
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=1m none /tmp")
        .status();
    tried.is_ok_and(|status| status.success())
}
