//! From flags to cells: the matrix of what is asked most, or every combination of the lists that were given.

use std::fmt;

use serde::Serialize;

use super::args::{BenchArgs, Form, Load};
use crate::MAX_BATCH_BYTES;
use crate::cli::args::DurabilityArg;
use crate::cli::failure::Failure;

/// A thread for each request in flight is refused beyond this: the machine would be measured, not the engine.
const MOST_THREADS: u32 = 4096;
/// An operation's key and head, generously.
const KEY_BYTES: usize = 64;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Cell {
    pub(super) load: Load,
    pub(super) form: Form,
    pub(super) in_flight: u32,
    /// Of its writes; none where it has none.
    pub(super) durability: Option<DurabilityArg>,
    pub(super) shards: u64,
    pub(super) value_bytes: u32,
    /// Keys of a write.
    pub(super) batch: u32,
    /// Whether a shard moves all the while.
    pub(super) migrate: bool,
}

/// What cells of one engine share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StageKey {
    shards: u64,
    value_bytes: u32,
    migrate: bool,
}

const PUT: Cell = Cell {
    load: Load::Put,
    form: Form::Async,
    in_flight: 256,
    durability: Some(DurabilityArg::Sync),
    shards: 16,
    value_bytes: 128,
    batch: 1,
    migrate: false,
};

impl Cell {
    pub(super) fn stage(&self) -> StageKey {
        StageKey {
            shards: self.shards,
            value_bytes: self.value_bytes,
            migrate: self.migrate,
        }
    }

    /// Without what does not matter to it, so that no two cells are the same thing by another name.
    fn plain(mut self) -> Self {
        if !self.load.writes() {
            (self.durability, self.batch) = (None, 1);
        }
        self
    }

    fn check(self) -> Result<Self, Failure> {
        if self.form == Form::Blocking && self.in_flight > MOST_THREADS {
            let threads = self.in_flight;
            return Err(Failure::usage(format!(
                "--in-flight {threads} with --form blocking would be {threads} threads: ask for {MOST_THREADS} at most, or for --form async"
            )));
        }
        let bytes = (self.value_bytes as usize + KEY_BYTES).saturating_mul(self.batch as usize);
        if self.batch > 1 && bytes > MAX_BATCH_BYTES {
            return Err(Failure::usage(format!(
                "--batch {} with --value-bytes {} is more than a batch holds, 32 MiB: ask for less of one of them",
                self.batch, self.value_bytes
            )));
        }
        Ok(self)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = name(&self.load);
        let form = name(&self.form);
        write!(f, "{load}, {form}, {} in flight", self.in_flight)?;
        if let Some(durability) = &self.durability {
            write!(f, ", {}", name(durability))?;
        }
        write!(f, ", {} shards, {} B", self.shards, self.value_bytes)?;
        if self.batch > 1 {
            write!(f, ", batches of {}", self.batch)?;
        }
        if self.migrate {
            write!(f, ", a shard moving")?;
        }
        Ok(())
    }
}

/// The word for a value on the command line.
pub(super) fn name(value: &impl clap::ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The cells that the flags ask for.
pub(super) fn of(args: &BenchArgs) -> Result<Vec<Cell>, Failure> {
    let all = match (args.names_cells(), args.open.is_some()) {
        (true, _) => combined(args),
        (false, true) => vec![],
        (false, false) => usual(args.quick),
    };
    let mut cells: Vec<Cell> = Vec::new();
    for cell in all {
        let cell = cell.plain().check()?;
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    Ok(cells)
}

/// Every combination of the lists.
fn combined(args: &BenchArgs) -> Vec<Cell> {
    let start = Cell {
        migrate: args.migrate,
        ..PUT
    };
    let mut cells = vec![start];
    spread(&mut cells, &args.load, |cell, load| cell.load = load);
    spread(&mut cells, &args.shards, |cell, count| cell.shards = count);
    spread(&mut cells, &args.value_bytes, |cell, bytes| {
        cell.value_bytes = bytes
    });
    spread(&mut cells, &args.batch, |cell, keys| cell.batch = keys);
    spread(&mut cells, &args.durability, |cell, how| {
        cell.durability = Some(how)
    });
    spread(&mut cells, &args.form, |cell, form| cell.form = form);
    spread(&mut cells, &args.in_flight, |cell, count| {
        cell.in_flight = count
    });
    cells
}

/// Makes a cell for each value out of each cell; none where no value was given.
fn spread<T: Copy>(cells: &mut Vec<Cell>, values: &[T], set: impl Fn(&mut Cell, T)) {
    if values.is_empty() {
        return;
    }
    let with = |cell: &Cell, value: T| {
        let mut cell = *cell;
        set(&mut cell, value);
        cell
    };
    *cells = cells
        .iter()
        .flat_map(|cell| {
            values
                .iter()
                .map(|value| with(cell, *value))
                .collect::<Vec<_>>()
        })
        .collect();
}

/// What is asked most; a quick run leaves out what differs little from another cell.
fn usual(quick: bool) -> Vec<Cell> {
    let put = |form, in_flight, durability| Cell {
        form,
        in_flight,
        durability: Some(durability),
        ..PUT
    };
    let read = |load, form, in_flight| Cell {
        load,
        form,
        in_flight,
        ..PUT
    };
    let (sync, buffered) = (DurabilityArg::Sync, DurabilityArg::Buffered);
    let mut cells = vec![
        put(Form::Blocking, 1, sync),
        put(Form::Async, 256, sync),
        put(Form::Blocking, 1, buffered),
        put(Form::Async, 256, buffered),
        read(Load::Get, Form::Blocking, 1),
        read(Load::Miss, Form::Blocking, 1),
        read(Load::Scan, Form::Blocking, 1),
        read(Load::Mixed, Form::Blocking, 16),
        read(Load::GetWhilePut, Form::Blocking, 1),
        Cell {
            migrate: true,
            ..PUT
        },
    ];
    if !quick {
        cells.splice(
            1..1,
            [put(Form::Blocking, 64, sync), put(Form::Async, 64, sync)],
        );
        cells.extend([
            put(Form::Async, 1024, sync),
            put(Form::Blocking, 16, buffered),
            Cell { batch: 16, ..PUT },
            Cell {
                value_bytes: 4096,
                ..PUT
            },
            Cell { shards: 1, ..PUT },
            Cell { shards: 100, ..PUT },
            read(Load::Get, Form::Async, 64),
            read(Load::Get, Form::Blocking, 4),
        ]);
    }
    cells
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Bench {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parsed(words: &str) -> Result<Vec<Cell>, String> {
        let words = ["bench"].into_iter().chain(words.split_whitespace());
        let bench = Bench::try_parse_from(words).map_err(|error| error.to_string())?;
        of(&bench.args).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn lists_give_every_combination() {
        let cells = parsed(
            "--shards 1,16,100 --in-flight 1,256 --form async,blocking --durability sync,buffered",
        )
        .unwrap();
        assert_eq!(cells.len(), 3 * 2 * 2 * 2);
        let all: Vec<String> = cells.iter().map(Cell::to_string).collect();
        assert!(
            all.contains(&"put, blocking, 256 in flight, buffered, 100 shards, 128 B".into()),
            "{all:?}"
        );
        let one = parsed("--value-bytes 4096 --batch 16 --migrate").unwrap();
        assert_eq!(
            one[0].to_string(),
            "put, async, 256 in flight, sync, 16 shards, 4096 B, batches of 16, a shard moving"
        );
    }

    #[test]
    fn what_only_reads_is_measured_once_whatever_writes_would_be() {
        let cells = parsed("--load get,put --durability sync,buffered --batch 1,4").unwrap();
        let of = |load| cells.iter().filter(|cell| cell.load == load).count();
        assert_eq!((of(Load::Get), of(Load::Put)), (1, 4));
    }

    #[test]
    fn without_lists_all_loads_and_both_forms_are_measured_quick_or_not() {
        for words in ["", "--quick"] {
            let cells = parsed(words).unwrap();
            for load in [
                Load::Put,
                Load::Get,
                Load::Miss,
                Load::Scan,
                Load::Mixed,
                Load::GetWhilePut,
            ] {
                assert!(
                    cells.iter().any(|cell| cell.load == load),
                    "{words} {load:?}"
                );
            }
            assert!(cells.iter().any(|cell| cell.migrate));
            assert!(cells.iter().any(|cell| cell.form == Form::Blocking));
        }
        assert!(parsed("--open 16").unwrap().is_empty());
        assert_eq!(parsed("--open 16 --shards 1,2").unwrap().len(), 2);
    }

    #[test]
    fn what_can_not_be_measured_is_refused_with_what_to_ask_for() {
        let threads = parsed("--form blocking --in-flight 5000").unwrap_err();
        assert!(
            threads.contains("--in-flight 5000") && threads.contains("4096"),
            "{threads}"
        );
        let batch = parsed("--batch 1000 --value-bytes 100000").unwrap_err();
        assert!(
            batch.contains("--batch 1000") && batch.contains("32 MiB"),
            "{batch}"
        );
        for bad in [
            "--shards 0",
            "--shards 1001",
            "--shards x",
            "--in-flight 0",
            "--value-bytes 16777217",
            "--batch 0",
            "--keys 0",
            "--seconds 0",
            "--seconds NaN",
            "--warm-up -1",
            "--load read",
            "--durability never",
            "--form sync",
            "--open 0",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
