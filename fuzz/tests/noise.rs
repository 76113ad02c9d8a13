//! Some noise through every target on each test run; a finding names the seed.

use watershed_fuzz::TARGETS;

/// SplitMix64.
fn noise(mut state: u64, len: usize) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

/// Says how to replay what panics while it is held.
struct Replay {
    name: &'static str,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { name, seed } = self;
            println!(
                "{name}: NOISE_FROM={seed} NOISE_COUNT=1 cargo test --release -p watershed-fuzz noise"
            );
        }
    }
}

/// `NOISE_FROM` and `NOISE_COUNT` choose other seeds: the command that replays a finding is printed with it.
#[test]
fn noise_finds_nothing() {
    let number = |name, default| {
        std::env::var(name).map_or(default, |n| n.parse::<u64>().expect("a number"))
    };
    let from = number("NOISE_FROM", 0);
    for seed in from..from + number("NOISE_COUNT", 60) {
        let len = usize::try_from(seed * 37 % 400).expect("small");
        for (name, run) in TARGETS {
            let _said = Replay { name, seed };
            run(&noise(seed, len));
        }
    }
}
