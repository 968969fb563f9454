//! The process dies, or the disk fails, between any two changes on disk.

use std::{sync::atomic::AtomicU64, time::Duration};

use evenkeel_api::{Key, canary::Canary};
use evenkeel_base::FixedClock;
use evenkeel_control::{Action, Direction, Door as _, Petition, Verdict};
use futures::{channel::oneshot, executor::block_on, future};
use k8s_openapi::api::core::v1::Pod;

use super::*;
use crate::{
    Check, Entry, Keeper, Summary,
    book::{Ask, Book, Request, What},
    read, verify,
    writer::Writer,
};

/// What one run does to the record: `a` asks, `o` notes an outcome, `s` syncs, `2` asks twice at
/// once. Files are so small that some are closed and dropped on the way.
const SCRIPT: &str = "aoao2osaoaoa2oosaoao";
/// Two or three lines.
const FILE_BYTES: u64 = 1500;
/// Two or three files.
const KEEP: Keep = Keep { age: None, bytes: 3500 };

/// Which step fails once, and at which one the process dies.
#[derive(Debug, Clone, Copy)]
struct Fault {
    fails_at: usize,
    dies_at: usize,
}

struct Case {
    dir: PathBuf,
    key: Arc<SigningKey>,
}

/// What a process that died had promised, and what the disk may have lost.
struct Died {
    steps: usize,
    /// Numbers of lines that were answered as durable.
    promised: Vec<u64>,
    number: u32,
    /// The last file, up to here, is durable.
    durable: u64,
}

impl Case {
    fn new(name: &str) -> Self {
        // Hundreds of runs sync some twenty times each: in memory that costs nothing.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = place.join(format!("evenkeel-crash-{}-{name}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir).unwrap();
        }
        let key = Arc::new(SigningKey::create(&dir.join("key")).unwrap());
        Self { dir: dir.join("audit"), key }
    }

    fn clear(&self) {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).unwrap();
        }
    }

    fn open(&self) -> Book<FileSink> {
        let (mut sink, tip, damage) = loop {
            match FileSink::open(&self.dir, self.key.clone(), KEEP) {
                // Another test's thread is starting a program: until that is running it has all
                // our files, and with them the lock that was just given up.
                Err(OpenError::InUse { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(damage, None);
        sink.file_bytes_max = FILE_BYTES;
        Book::new(sink, tip, Arc::new(FixedClock(Timestamp::UNIX_EPOCH)), None)
    }

    /// Runs the script until the process dies.
    fn run(&self, fault: Fault) -> Died {
        let mut book = self.open();
        let steps = Arc::new(AtomicU64::new(0));
        let counted = steps.clone();
        book.sink.probe = Some(Box::new(move |_| {
            let step = usize::try_from(counted.fetch_add(1, Relaxed)).unwrap();
            if step == fault.fails_at || step >= fault.dies_at {
                return Err(io::Error::other("fault"));
            }
            Ok(())
        }));
        let mut promised = Vec::new();
        for what in SCRIPT.chars() {
            promised.extend(play(&mut book, what));
            if usize::try_from(steps.load(Relaxed)).unwrap() > fault.dies_at {
                break;
            }
        }
        let unsynced = u64::try_from(book.sink.unsynced.len()).unwrap();
        let steps = usize::try_from(steps.load(Relaxed)).unwrap();
        Died { steps, promised, number: book.sink.number, durable: book.sink.len - unsynced }
    }

    fn summary(&self) -> Summary {
        let check = Check { key: Some(&self.key.public()), copy_of_head: None };
        verify(&self.dir, &check).unwrap()
    }

    /// After the crash the record is sound, keeps its promises, and goes on.
    fn check(&self, died: &Died, about: &str) {
        if died.promised.is_empty() && !self.dir.join(segment::name(1)).exists() {
            return;
        }
        let mut kept = Vec::new();
        read(&self.dir, |line| kept.push(line.seq)).unwrap_or_else(|t| panic!("{about}: {t}"));
        let first = kept.first().copied().unwrap_or(1);
        let lost: Vec<_> =
            died.promised.iter().filter(|seq| **seq >= first && !kept.contains(seq)).collect();
        assert!(lost.is_empty(), "{about}: promised and lost: {lost:?}");
        let mut book = self.open();
        assert_eq!(play(&mut book, 'a').len(), 1, "{about}");
        drop(book);
        let sound = self.summary();
        assert_eq!(sound.torn, None, "{about}");
    }
}

/// One letter of the script; numbers of the lines that were answered as durable.
fn play(book: &mut Book<FileSink>, what: char) -> Vec<u64> {
    let ask = || {
        let (reply, answer) = oneshot::channel();
        let entry = Entry::Lost { lines: 7 };
        let ask = Ask { entry, safer: false, ticket: String::new(), late: Arc::default(), reply };
        (Request { time: Timestamp::UNIX_EPOCH, what: What::Ask(ask) }, answer)
    };
    let count = match what {
        'a' => 1,
        '2' => 2,
        's' => {
            book.sync();
            0
        }
        _ => {
            let what = What::Outcome { id: "1".to_owned(), outcome: "done", error: None };
            book.commit(vec![Request { time: Timestamp::UNIX_EPOCH, what }]);
            0
        }
    };
    let (requests, answers): (Vec<_>, Vec<_>) = std::iter::repeat_with(ask).take(count).unzip();
    if count > 0 {
        book.commit(requests);
    }
    let answers = answers.into_iter().filter_map(|mut answer| answer.try_recv().unwrap()?.ok());
    answers.map(|seq| seq.parse().unwrap()).collect()
}

const NEVER: usize = usize::MAX;

#[test]
fn files_are_closed_and_dropped_and_every_one_proves_itself() {
    let case = Case::new("whole");
    let died = case.run(Fault { fails_at: NEVER, dies_at: NEVER });
    let sound = case.summary();
    assert!(sound.first > 1 && sound.files > 1, "{sound:?}");
    let dropped = sound.dropped.clone().unwrap();
    assert_eq!(dropped.last + 1, sound.first);
    assert!(died.promised.contains(&sound.last) || died.promised.len() > 10);
    fs::remove_dir_all(case.dir.parent().unwrap()).unwrap();
}

#[test]
fn the_process_may_die_between_any_two_changes() {
    let case = Case::new("dies");
    let all = case.run(Fault { fails_at: NEVER, dies_at: NEVER }).steps;
    assert!(all > 50, "{all}");
    for dies_at in 0..all {
        case.clear();
        let died = case.run(Fault { fails_at: NEVER, dies_at });
        case.check(&died, &format!("dies at {dies_at}"));
    }
    fs::remove_dir_all(case.dir.parent().unwrap()).unwrap();
}

#[test]
fn a_step_may_fail_and_the_process_die_later() {
    let case = Case::new("fails");
    let all = case.run(Fault { fails_at: NEVER, dies_at: NEVER }).steps;
    for fails_at in 0..all {
        for later in [1, 3] {
            case.clear();
            let fault = Fault { fails_at, dies_at: fails_at + later };
            let died = case.run(fault);
            case.check(&died, &format!("{fault:?}"));
        }
        case.clear();
        let died = case.run(Fault { fails_at, dies_at: NEVER });
        case.check(&died, &format!("fails at {fails_at}"));
    }
    fs::remove_dir_all(case.dir.parent().unwrap()).unwrap();
}

#[test]
fn the_power_may_go_and_take_everything_that_was_not_synced() {
    let case = Case::new("power");
    let all = case.run(Fault { fails_at: NEVER, dies_at: NEVER }).steps;
    for dies_at in 0..all {
        case.clear();
        let died = case.run(Fault { fails_at: NEVER, dies_at });
        let path = case.dir.join(segment::name(died.number));
        let Ok(written) = fs::read(&path) else { continue };
        let durable = usize::try_from(died.durable).unwrap();
        // Every length in between, more or less; also with a block that was never written.
        for len in (durable..=written.len()).step_by(97).chain([written.len()]) {
            fs::write(&path, &written[..len]).unwrap();
            read(&case.dir, |_| {}).unwrap_or_else(|t| panic!("dies at {dies_at}, {len}: {t}"));
        }
        let hole = [&written[..durable], &vec![0; written.len() - durable]].concat();
        fs::write(&path, hole).unwrap();
        case.check(&died, &format!("dies at {dies_at}, hole"));
    }
    fs::remove_dir_all(case.dir.parent().unwrap()).unwrap();
}

/// Cut anywhere: with a HEAD of that time or an older one it is a crash, with a newer one it is
/// tampering. Never anything else, and never both.
#[test]
fn cut_at_any_byte_it_is_a_crash_or_tampering_as_head_says() {
    let case = Case::new("cut");
    let mut book = case.open();
    book.sink.file_bytes_max = u64::MAX;
    let mut heads = Vec::new();
    for what in "aoaoa2osa".chars() {
        play(&mut book, what);
        heads.push(fs::read(case.dir.join("HEAD")).unwrap());
    }
    drop(book);
    let whole = fs::read(case.dir.join(segment::name(1))).unwrap();
    let ends = (0..whole.len()).filter(|at| whole[*at] == b'\n');
    let places = (0..whole.len()).step_by(29).chain(ends.flat_map(|at| [at, at + 1]));
    for (at, head) in places.zip(heads.iter().cycle()) {
        fs::write(case.dir.join(segment::name(1)), &whole[..at]).unwrap();
        fs::write(case.dir.join("HEAD"), head).unwrap();
        let lines = String::from_utf8_lossy(&whole[..at]).matches('\n').count() as u64;
        let named = crate::head::all(head).last().unwrap().tip.seq;
        let key = case.key.public();
        let verified = verify(&case.dir, &Check { key: Some(&key), copy_of_head: None });
        let (_, tip, damage) = FileSink::open(&case.dir, case.key.clone(), KEEP).unwrap();
        if named > lines {
            assert!(verified.unwrap_err().to_string().contains("the end was cut"), "{at}");
            assert!(damage.unwrap().contains("the end was cut"), "{at}");
        } else {
            assert_eq!((damage, tip.seq), (None, lines), "{at}");
            // Without a single line there is nothing to be sound.
            assert_eq!(verified.map_or(0, |sound| sound.last), lines, "{at}");
        }
    }
    fs::remove_dir_all(case.dir.parent().unwrap()).unwrap();
}

/// Longer than any other step may take, and the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_disk_that_takes_its_time_holds_up_nobody_but_who_waits_for_it() {
    let case = Case::new("slow");
    let mut book = case.open();
    let (tell, begun) = oneshot::channel();
    let (go_on, told) = std::sync::mpsc::channel();
    let in_time = Arc::new(AtomicU64::new(0));
    let (mut tell, mut written, counted) = (Some(tell), false, in_time.clone());
    book.sink.probe = Some(Box::new(move |step| {
        written |= step == Step::Write;
        // The sync of the line that is asked for.
        if let Some(tell) = tell.take_if(|_| written && step == Step::Sync) {
            tell.send(()).unwrap();
            counted.fetch_add(u64::from(told.recv_timeout(PATIENCE).is_ok()), Relaxed);
        }
        Ok(())
    }));
    let clock = Arc::new(FixedClock(Timestamp::UNIX_EPOCH));
    let door = Keeper::over(Writer::start(book).unwrap(), clock, None);
    let action = Action::Scale { key: Key::of::<Pod>("shop", "a"), replicas: 1 };
    let petition = Petition {
        controller: "delivery",
        object: &Key::of::<Canary>("shop", "a"),
        action: &action,
        text: &action.to_string(),
        after: None,
        reason: "Test",
        before: None,
        direction: Direction::Riskier,
        now: Timestamp::UNIX_EPOCH,
    };
    // Both on this one thread: if the question waited for the disk on it, nothing else went on.
    let others = async {
        begun.await.unwrap();
        go_on.send(()).unwrap();
    };
    let (verdict, ()) = block_on(future::join(door.ask(&petition), others));
    assert!(matches!(verdict, Verdict::Allow(_)), "{verdict:?}");
    assert_eq!(in_time.load(Relaxed), 1, "the disk was waited for on the thread of the others");
    drop(door);
    case.clear();
}
