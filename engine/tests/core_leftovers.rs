//! What a crash leaves under `shards/` is gone after the next opening; what belongs to something stays.

mod support;

use std::fs;

use support::World;
use watershed::ShardId;

#[test]
fn directories_that_belong_to_nothing_go_and_strangers_stay() {
    let world = World::new(2);
    let a = world.open("a");
    a.put("k", "v").wait().unwrap();
    a.close().unwrap();
    let shards = world.path("a").join("shards");
    let own: Vec<_> = [0, 1]
        .map(|shard| world.copies("a", ShardId(shard)))
        .concat();
    assert_eq!(own.len(), 2);
    let left_over = [
        // Its records were forgotten, and the crash came before its directory went.
        "0-00112233445566778899aabbccddeeff".to_owned(),
        // It was on its way out, or in.
        "1-00112233445566778899aabbccddeeff.gone".to_owned(),
        format!("{}.new", own[0]),
        format!("{}.gone", own[1]),
    ];
    let strange = ["notes", "0-xyz", "x-00112233445566778899aabbccddeeff"];
    for name in left_over.iter().map(String::as_str).chain(strange) {
        fs::create_dir(shards.join(name)).unwrap();
        fs::write(shards.join(name).join("file"), "bytes").unwrap();
    }
    let a = world.open("a");
    assert_eq!(a.get("k").wait().unwrap().unwrap(), "v");
    for name in &left_over {
        assert!(!shards.join(name).exists(), "{name} is left over");
    }
    for name in own.iter().map(String::as_str).chain(strange) {
        assert!(shards.join(name).exists(), "{name} stays");
    }
}
