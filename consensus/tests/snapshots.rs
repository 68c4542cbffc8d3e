//! Snapshots of the ledger: a true one is taken, and no lie is (L4, D3).

use oda_consensus::ids::{BlockHash, ChainId, Digest};
use oda_consensus::records::RecordLog;
use oda_consensus::snapshot::{Carried, Checker, SnapshotError, SnapshotRecord, TIP_KEY};
use oda_consensus::state::MAX_ENTRY_BYTES;
use oda_consensus::tx::Header;

/// A log of entries that are replaced now and then, as a snapshot carries it, and the header it ends with.
fn sample(blocks: u64) -> (Vec<SnapshotRecord>, Header) {
    let (mut log, mut records) = (RecordLog::default(), Vec::<SnapshotRecord>::new());
    for height in 1..=blocks {
        let keys = [TIP_KEY.to_vec(), vec![b'c', (height % 3) as u8], vec![b'm', height as u8]];
        for key in keys {
            let value = Carried::Whole([key.as_slice(), &height.to_be_bytes()].concat());
            let record = SnapshotRecord { height, key, value };
            log.push(&record.record());
            for before in records.iter_mut().filter(|r| r.key == record.key && r.key != TIP_KEY) {
                before.value = Carried::Replaced(before.record().value);
            }
            records.push(record);
        }
    }
    let header = Header {
        chain: ChainId([1; 32]),
        height: blocks,
        time_ms: 9,
        prev: BlockHash([2; 32]),
        txs_root: Digest([3; 32]),
        records: log.len(),
        state_root: log.root(),
    };
    (records, header)
}

fn check(records: &[SnapshotRecord], header: Header, own: Option<(u64, Digest)>) -> Result<u64, SnapshotError> {
    let mut checker = Checker::new(header, own);
    for record in records {
        checker.take(record)?;
    }
    checker.finish().map(|log| log.len())
}

#[test] // L4: the whole log gives the root, and goes on from every ledger that is its beginning
fn a_true_snapshot_is_taken() {
    let (records, header) = sample(20);
    assert_eq!(check(&records, header, None), Ok(60));
    for blocks in 0..=20 {
        let (_, own) = sample(blocks);
        assert_eq!(check(&records, header, Some((own.records, own.state_root))), Ok(60));
    }
    let (_, beyond) = sample(21);
    assert_eq!(check(&records, header, Some((beyond.records, beyond.state_root))), Err(SnapshotError::OtherPast));
    let foreign = Some((30, Digest([9; 32])));
    assert_eq!(check(&records, header, foreign), Err(SnapshotError::OtherPast));
}

type Lie = fn(&mut Vec<SnapshotRecord>);

#[test] // L4, D3: each lie is found, the ones under a true root too
fn no_lie_is_taken() {
    let (records, header) = sample(20);
    let newest = records.len() - 2; // of a `c`; one before it was replaced
    assert_eq!(records[newest].key[0], b'c');
    let lies: [(&str, Lie); 11] = [
        ("a changed value", |r| {
            let Carried::Whole(value) = &mut r[58].value else { panic!() };
            value[3] ^= 1;
        }),
        ("a changed hash", |r| r[1].value = Carried::Replaced(Digest([0; 32]))),
        ("another height", |r| r[4].height -= 1),
        ("another key", |r| r[2].key[1] ^= 0x80),
        ("a record left out", |r| drop(r.remove(30))),
        ("two exchanged", |r| r.swap(30, 31)),
        ("cut off", |r| r.truncate(59)),
        ("one more", |r| r.push(r[0].clone())),
        ("without end", |r| (0..100).for_each(|_| r.extend(r.clone().into_iter().take(50)))),
        ("the newest value kept back", |r| r[58].value = Carried::Replaced(r[58].record().value)),
        ("a tip kept back", |r| r[0].value = Carried::Replaced(r[0].record().value)),
    ];
    for (what, lie) in lies {
        let mut lied = records.clone();
        lie(&mut lied);
        assert!(check(&lied, header, None).is_err(), "{what}");
    }
    // K3: the first one too many is refused, and not only what comes of all of them
    let more = [records.clone(), records.clone()].concat();
    let mut checker = Checker::new(header, None);
    let taken = more.iter().take_while(|record| checker.take(record).is_ok()).count();
    assert_eq!((taken, checker.take(&records[0])), (60, Err(SnapshotError::Count("more"))));
    assert_eq!(check(&records[..59], header, None), Err(SnapshotError::Count("fewer")));
    // what is under the root, yet not the one form a snapshot has
    let at = records.iter().position(|r| matches!(r.value, Carried::Replaced(_))).unwrap();
    let (mut padded, key) = (records.clone(), records[at].key.clone());
    padded[at].value = Carried::Whole([key.as_slice(), &records[at].height.to_be_bytes()].concat());
    assert_eq!(padded[at].record(), records[at].record());
    assert!(matches!(check(&padded, header, None), Err(SnapshotError::Record { .. })));
    let mut huge = records.clone();
    huge[0].value = Carried::Whole(vec![0; MAX_ENTRY_BYTES + 1]);
    assert!(matches!(check(&huge, header, None), Err(SnapshotError::Record { index: 0, .. })));
    let other = Header { state_root: Digest([4; 32]), ..header };
    assert_eq!(check(&records, other, None), Err(SnapshotError::WrongRoot));
}
