//! Seeds of the log's targets.

use bytes::Bytes;
use watershed_wal::{
    BatchBuilder, ClientStamp, Epoch, InstanceId, Op, Record, RecordKind, Seq, SeqRange, StartBody,
    Term, single_delete, single_put,
};

use super::Noise;

pub(super) fn batches() -> Vec<Vec<u8>> {
    let text = Bytes::from_static;
    let mut all = BatchBuilder::new();
    all.put(b"key", b"value").delete(b"gone");
    all.push(&Op::DeleteRange {
        keyspace: 300,
        flags: 1,
        from: text(b"a"),
        to: text(b"m"),
    });
    all.push(&Op::Merge {
        keyspace: u32::MAX,
        flags: 0x80,
        key: text(b"n"),
        operand: text(b"+1"),
    });
    let all = all.finish();
    let client = ClientStamp {
        id: u128::MAX,
        number: 1 << 40,
        result: text(b"ok"),
    };
    let mut stamped = BatchBuilder::stamped(&client);
    stamped.put(b"", b"");
    let long = single_put(&[7; 130], &[8; 300]);
    let mut inputs = vec![
        vec![],
        vec![1, 0],
        vec![2, 0],
        vec![1, 2],
        single_put(b"k", b"v").to_vec(),
        single_delete(b"k").to_vec(),
        all.to_vec(),
        all[..all.len() - 1].to_vec(),
        stamped.finish().to_vec(),
        long.to_vec(),
        vec![1, 0, 9, 0],
        vec![1, 0, 1, 0, 0x80, 0],
        vec![
            1, 0, 2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
        ],
    ];
    inputs.push([&[1, 0], &Noise(1).bytes(60)[..]].concat());
    inputs
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let record = |opening, seq, kind, body: &'static [u8]| {
        Record::new(
            Term::new(Epoch(3), opening),
            Seq(seq),
            kind,
            Bytes::from_static(body),
        )
    };
    let kinds = RecordKind::ALL.map(|kind| record(1, 300 + u64::from(kind.code()), kind, b"body"));
    let message = Record::encode_many(&kinds);
    let payload = &message[1..message.len() - 4];
    let void = SeqRange::new(Seq(9), Seq(300));
    vec![
        vec![],
        Record::encode_many(&[]).to_vec(),
        message.to_vec(),
        message[..message.len() - 5].to_vec(),
        // As payloads, which the target seals itself.
        payload.to_vec(),
        payload[..payload.len() - 1].to_vec(),
        b"\x01\x01\x03\x01\x00\x00".to_vec(),
        b"\x01\x01\x03\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00".to_vec(),
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
        Record::encode_many(&[record(u64::MAX, u64::MAX - 1, RecordKind::Batch, b"")]).to_vec(),
        StartBody {
            instance: InstanceId(7),
            void: None,
        }
        .encode()
        .to_vec(),
        StartBody {
            instance: InstanceId(u128::MAX),
            void,
        }
        .encode()
        .to_vec(),
        Noise(2).bytes(80),
    ]
}

pub(super) fn segments() -> Vec<Vec<u8>> {
    let edit =
        |file: u8, offset: u16, xor: u8| [&[file], &offset.to_le_bytes()[..], &[xor]].concat();
    let mut inputs = vec![
        vec![],
        vec![0],
        [vec![0], vec![0; 600]].concat(),
        [vec![0], Noise(3).bytes(300)].concat(),
        [vec![1], Noise(4).bytes(300)].concat(),
        // The samples as they are.
        vec![2],
        vec![3],
        // A file cut to nothing, and one in the middle.
        [vec![2], edit(0, 0, 0)].concat(),
        [vec![2], edit(1, 5000, 0)].concat(),
        [vec![3], edit(1, 900, 0)].concat(),
    ];
    let mut noise = Noise(5);
    let mut offset =
        || u16::from_le_bytes([noise.next().to_le_bytes()[0], noise.next().to_le_bytes()[1]]);
    for file in 0..3 {
        inputs.push([vec![2], edit(file, 0, 1)].concat());
        inputs.push([vec![2], edit(file, offset(), 0x80)].concat());
        inputs.push([vec![3], edit(file, offset(), 0x01)].concat());
        inputs.push(
            [
                vec![3],
                edit(file, offset(), 0xff),
                edit(file, offset(), 0x10),
            ]
            .concat(),
        );
    }
    inputs
}

/// Operations of `log_ops`: the code, the instance, and what the operation takes.
pub(super) fn operations() -> Vec<Vec<u8>> {
    let host_owner: &[u8] = &[0, 0, 0];
    let host_receiver: &[u8] = &[0, 1, 3];
    let put: &[u8] = &[1, 0, 40];
    let put_buffered: &[u8] = &[4, 0, 40];
    let large: &[u8] = &[1, 0, 250];
    let many: &[u8] = &[6, 0, 0b0101_0011, 9, 30];
    let settle: &[u8] = &[8, 0];
    let receive: &[u8] = &[9, 1, 0, 9, 3];
    let conflict: &[u8] = &[11, 1, 1];
    let read: &[u8] = &[12, 0, 0, 3];
    let tail: &[u8] = &[13, 0, 0];
    let flushed: &[u8] = &[14, 0, 200];
    let hold: &[u8] = &[15, 0, 1, 2];
    let release: &[u8] = &[16, 0, 1];
    let forget: &[u8] = &[17, 0];
    let note: &[u8] = &[18, 0, 1, 3];
    let close: &[u8] = &[19, 0];
    let crash: &[u8] = &[19, 1, 7, 0];
    let gate: &[u8] = &[21, 0, 1];
    let sync: &[u8] = &[22, 0];
    let view: &[u8] = &[23, 0];
    let arm = |kind: u8, nth: u8| vec![20, 0, kind, nth];
    let script = |header: u8, ops: &[&[u8]]| [&[header], ops.concat().as_slice()].concat();
    let larges: Vec<&[u8]> = vec![large; 12];
    let mut inputs = vec![
        script(
            0xff,
            &[host_owner, put, put, read, tail, close, read, put, view],
        ),
        script(
            0xf5,
            &[host_owner, put, put_buffered, crash, put, read, crash, view],
        ),
        script(
            0xf5,
            &[
                host_owner,
                put_buffered,
                put_buffered,
                sync,
                crash,
                read,
                tail,
            ],
        ),
        script(
            0xf5,
            &[
                host_receiver,
                receive,
                conflict,
                &[10, 1, 3, 9, 200],
                crash,
                receive,
                &[13, 1, 0],
                close,
            ],
        ),
        script(
            0xf5,
            &[host_owner, many, many, settle, read, many, crash, put, tail],
        ),
        script(
            0xf1,
            &[
                &[host_owner],
                &larges[..],
                &[flushed],
                &larges[..],
                &[view, crash, put],
            ]
            .concat(),
        ),
        script(
            0xf0,
            &[
                &[host_owner, hold],
                &larges[..],
                &[flushed],
                &larges[..],
                &[release, crash],
            ]
            .concat(),
        ),
        script(
            0xf5,
            &[
                host_owner, put, hold, note, gate, put, crash, forget, crash, host_owner, put,
            ],
        ),
        script(
            0xff,
            &[
                host_owner,
                host_receiver,
                put,
                receive,
                forget,
                close,
                host_owner,
                put,
                crash,
            ],
        ),
    ];
    for nth in [0, 1, 2, 3, 5, 8, 13] {
        let armed = [
            host_owner,
            put,
            &arm(0, nth),
            put,
            put_buffered,
            many,
            note,
            hold,
            crash,
            put,
            read,
        ]
        .concat();
        inputs.push([&[0xf5][..], &armed].concat());
    }
    for kind in 4..8 {
        let armed = [
            host_owner,
            put,
            &arm(kind, 1),
            &larges.concat(),
            close,
            put,
            read,
            crash,
            put,
        ]
        .concat();
        inputs.push([&[0xf5][..], &armed].concat());
    }
    for seed in 0..12 {
        inputs.push(Noise(100 + seed).bytes(160));
    }
    inputs
}

/// Operations of `log_faults`: those of `log_ops`, openings under a fault at each of the first calls, faults that
/// stay, and room that runs out.
pub(super) fn faults() -> Vec<Vec<u8>> {
    let wrote: &[u8] = &[0xf5, 0, 0, 0, 1, 0, 40, 4, 0, 90, 18, 0, 1, 3, 15, 0, 1, 2];
    let (close, crash) = (0, 200);
    let mut inputs: Vec<_> = operations().into_iter().take(20).collect();
    for nth in 0..8 {
        for (how, fault) in [(close, 1), (crash, 0), (crash, 1)] {
            let under: &[u8] = &[26, how, 0, nth, fault, 7];
            let after: &[u8] = &[1, 0, 40, 26, crash, 1, nth, 0, 9, 12, 0, 0, 9];
            inputs.push([wrote, under, after].concat());
        }
    }
    for (call, fault) in [(2, 1), (3, 1), (2, 3), (2, 2), (7, 1), (1, 2)] {
        let dead: &[u8] = &[24, call, 0x80, fault];
        let then: &[u8] = &[1, 0, 40, 30, 1, 0, 40, 22, 23, 0, 19, 1, 7, 0, 1, 0, 40];
        inputs.push([wrote, dead, then].concat());
    }
    let large: &[u8] = &[1, 0, 250];
    let full = [
        wrote,
        &[28, 0, 8],
        &large.repeat(12),
        &[29, 0],
        &large.repeat(6),
    ]
    .concat();
    inputs.push(full);
    for seed in 0..8 {
        inputs.push(Noise(300 + seed).bytes(160));
    }
    inputs
}
