//! Lists that are too long are refused before they are made, each by its name.

use protox::prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use watershed_migration::messages::{
    Envelope, FILE_NAME_MAX, MAX_MESSAGE_BYTES, RefusedKind, Request, Response, TEXT_MAX, WireError,
};
use watershed_migration::{Attempt, DriverTerm, MigrationId};
use watershed_wal::ShardId;

use crate::described::{decode, field, root, varint};

/// The way from a whole message to a list: its fields, the list last.
type Path = Vec<FieldDescriptor>;

fn lists(message: &MessageDescriptor) -> Vec<Path> {
    let mut paths = vec![];
    for field in message.fields() {
        if field.is_list() {
            paths.push(vec![field.clone()]);
        }
        if let Kind::Message(inside) = field.kind() {
            for path in lists(&inside) {
                paths.push([vec![field.clone()], path].concat());
            }
        }
    }
    paths
}

fn all_lists() -> Vec<(&'static str, Path)> {
    let of = |side| lists(&root(side)).into_iter().map(move |path| (side, path));
    let all: Vec<_> = of("Request").chain(of("Response")).collect();
    assert!(all.len() > 20, "{}", all.len());
    all
}

/// A whole message that has nothing but so many empty elements in one list, each on a field of its own unless packed.
fn message(path: &Path, elements: usize, packed: bool) -> Vec<u8> {
    let (list, way) = path.split_last().unwrap();
    let mut bytes = match (list.kind(), packed) {
        (Kind::Uint64, true) => field(list.number(), &vec![0; elements]),
        (Kind::Uint64, false) => [varint(u64::from(list.number() << 3)), vec![0]]
            .concat()
            .repeat(elements),
        _ => field(list.number(), b"").repeat(elements),
    };
    for outer in way.iter().rev() {
        bytes = field(outer.number(), &bytes);
    }
    [&[0x08, 1, 0x10, 1][..], &bytes].concat()
}

/// How many elements on the wire make one of the list.
fn wire_elements(path: &Path) -> usize {
    match path.last().unwrap().kind() {
        Kind::Uint64 => 2,
        _ => 1,
    }
}

fn refused_bound(side: &str, bytes: &[u8]) -> Option<(&'static str, usize, usize)> {
    match decode(side, bytes) {
        Err(WireError::Bound {
            list, found, most, ..
        }) => Some((list, found, most)),
        _ => None,
    }
}

#[test]
fn a_list_of_millions_of_empty_elements_is_refused_by_its_bound() {
    for (side, path) in all_lists() {
        let name = path.last().unwrap().full_name().to_owned();
        let each = wire_elements(&path);
        for packed in [true, false] {
            let bytes = message(&path, 2_000_000, packed);
            let bound = refused_bound(side, &bytes);
            let (_, found, most) =
                bound.unwrap_or_else(|| panic!("{name}: {:?}", decode(side, &bytes)));
            assert_eq!(found, 2_000_000 / each, "{name}");
            // The bound itself is not beyond it; one more is.
            assert_eq!(
                refused_bound(side, &message(&path, most * each, packed)),
                None,
                "{name}"
            );
            let one_more = refused_bound(side, &message(&path, (most + 1) * each, packed));
            assert_eq!(
                one_more.map(|(_, found, _)| found),
                Some(most + 1),
                "{name}"
            );
        }
    }
}

/// A decoder joins messages that are there twice, and with them their lists: each within its bound, both beyond.
#[test]
fn a_list_in_a_message_that_is_there_twice_is_refused() {
    let mut tried = 0;
    for (side, path) in all_lists() {
        for at in 1..path.len() - 1 {
            let (way, twice) = path.split_at(at);
            let inner = message(&twice.to_vec(), 2, true).split_off(4);
            let mut bytes = inner.repeat(2);
            for outer in way.iter().rev() {
                bytes = field(outer.number(), &bytes);
            }
            let bytes = [&[0x08, 1, 0x10, 1][..], &bytes].concat();
            let error = decode(side, &bytes).unwrap_err().to_string();
            let name = twice[0].name();
            assert!(error.contains(&format!("{name}: given twice")), "{error}");
            tried += 1;
        }
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn a_text_beyond_its_bound_is_refused() {
    let long = |len| "x".repeat(len);
    let env = Envelope {
        shard: ShardId(1),
        migration: MigrationId(1),
        attempt: Attempt(1),
        driver_term: DriverTerm(1),
    };
    for (len, refused) in [(FILE_NAME_MAX, false), (FILE_NAME_MAX + 1, true)] {
        let (name, offset) = (long(len), 0);
        let request = Request::ReadFile {
            env,
            name,
            offset,
            len: 1,
        };
        let bound = ("bytes of a file name", FILE_NAME_MAX + 1, FILE_NAME_MAX);
        let found = refused_bound("Request", &request.encode());
        assert_eq!(found, refused.then_some(bound));
    }
    for (len, refused) in [(TEXT_MAX, false), (TEXT_MAX + 1, true)] {
        let response = Response::refused(RefusedKind::Busy, long(len));
        let bound = ("bytes of a text", TEXT_MAX + 1, TEXT_MAX);
        let found = refused_bound("Response", &response.encode());
        assert_eq!(found, refused.then_some(bound));
    }
}

#[test]
fn what_is_longer_than_any_message_is_refused_unread() {
    let len = MAX_MESSAGE_BYTES + 1;
    assert_eq!(
        Request::decode(&vec![0; len]),
        Err(WireError::TooLong { len })
    );
}

/// Unknown fields are stepped over, however deep they say they are.
#[test]
fn depth_is_no_way_in() {
    let groups = [0x83_u8, 0x3f].repeat(100_000);
    for inside in [field(90, &groups), groups] {
        let bytes = [&[0x08, 1, 0x10, 1][..], &field(17, &inside)].concat();
        assert!(decode("Request", &bytes).is_err());
    }
}
