//! Files that are not what was written.

use redb::{Builder, Database, TableDefinition};

use super::{super::file, disk::Disk, *};

fn filled() -> Vec<u8> {
    let disk = Disk::formatted();
    let (server, mut flusher) = open(disk.journal().unwrap()).unwrap();
    let mut made: Vec<Answer> =
        (0..50).map(|n| create(&server, config(&format!("c{n}")))).collect();
    for answer in &mut made {
        assert!(futures::FutureExt::now_or_never(answer.as_mut()).is_none());
    }
    flusher.flush().unwrap();
    drop(flusher);
    disk.bytes()
}

#[test]
fn a_file_that_was_cut_or_changed_is_refused_or_whole() {
    let bytes = filled();
    let whole = open(Disk::with(bytes.clone()).journal().unwrap()).unwrap().0.kept().objects.len();
    let mut refused = Vec::new();
    let mut look = |bytes: Vec<u8>, what: String| {
        let opened = Disk::with(bytes).journal().and_then(open);
        match opened {
            // Where nothing is kept, anything may be.
            Ok((server, _)) => assert_eq!(server.kept().objects.len(), whole, "{what}"),
            Err(error) => {
                let advice = "restore a snapshot (evenkeel snapshot restore FILE --replace), or \
                              begin again without it (evenkeel up --fresh)";
                assert!(error.to_string().contains(advice), "{what}: {error}");
                refused.push(what);
            }
        }
    };
    let step = bytes.len() / 61;
    for length in (1..bytes.len()).step_by(step) {
        look(bytes[..length].to_vec(), format!("cut at {length}"));
    }
    let cuts = bytes.len().div_ceil(step) - 1;
    for at in (0..64).chain((64..bytes.len()).step_by(step)) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        look(bytes, format!("changed at {at}"));
    }
    assert!(refused.len() >= cuts / 2, "{refused:?}");
}

#[test]
fn a_later_format_is_refused_and_an_earlier_one_taken_along() {
    let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
    let disk = Disk::with(filled());
    let set = |format: u64| {
        let db = Builder::new().create_with_backend(disk.clone()).unwrap();
        let transaction = db.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert("format", format).unwrap();
        transaction.commit().unwrap();
    };
    set(2);
    let said = open(disk.journal().unwrap()).err().unwrap();
    let wanted = "disk has format 2, and this version of evenkeel reads formats up to 1: use the \
                  version that wrote it, or begin again without it (evenkeel up --fresh)";
    assert_eq!(said.to_string(), wanted);
    set(1);
    let db: Database = Builder::new().create_with_backend(disk.clone()).unwrap();
    let step: file::Step = |transaction| {
        transaction.open_table(TableDefinition::<&str, u64>::new("later"))?.insert("a", 1)?;
        Ok(())
    };
    // Two steps are known, one of them was taken.
    file::migrate(&db, 2, &[|_| Err(redb::Error::DatabaseClosed), step]).unwrap();
    assert_eq!(file::format_of(&db).unwrap(), 3);
}
