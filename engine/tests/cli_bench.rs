//! `watershed bench --quick` measures every part.

mod cli_support;

use cli_support::{Place, command, run};

#[test]
fn the_quick_bench_measures_every_part() {
    let place = Place::new();
    let ended = run(command(["bench", "--quick", "--json", "--dir"]).arg(place.path("")));
    assert_eq!(ended.status, 0, "{ended:?}");
    let document = ended.json();
    for name in ["sync_1", "sync_256", "buffered_1", "buffered_256", "reads"] {
        for field in ["in_flight", "count", "per_s"] {
            assert!(
                document[name][field].as_f64().unwrap() > 0.0,
                "{name}.{field}: {document}"
            );
        }
    }
    assert!(document["scan"]["entries"].as_u64().unwrap() > 0);
    assert!(document["migration"]["pause_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(
        std::fs::read_dir(place.path("")).unwrap().count(),
        0,
        "nothing is left behind"
    );
}
