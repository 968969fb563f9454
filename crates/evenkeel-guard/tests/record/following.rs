//! Looking on while the record is written.

use evenkeel_guard::Follow;

use super::*;

fn seqs(follow: &mut Follow) -> Vec<u64> {
    follow.lines().unwrap().iter().map(|line| line.seq).collect()
}

#[test]
fn lines_come_once_and_whole() {
    let dir = recorded("followed");
    let sound = lines(&dir);
    let mut follow = Follow::new(&dir.join("audit"));
    assert_eq!(seqs(&mut follow), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(seqs(&mut follow), [0; 0]);
    // A write that failed is undone, and another line takes the place of its own.
    put(&dir, &sound[..6]);
    assert_eq!(seqs(&mut follow), [0; 0]);
    let whole = fs::read(path(&dir, 1)).unwrap();
    fs::write(path(&dir, 1), [&whole, &sound[6].as_bytes()[..40]].concat()).unwrap();
    assert_eq!(seqs(&mut follow), [0; 0]);
    put(&dir, &sound);
    assert_eq!(seqs(&mut follow), [7]);
}

#[test]
fn a_record_that_is_begun_anew_is_followed_from_its_first_line() {
    let dir = folder("followed-anew");
    act(&open(&dir), 1);
    let mut follow = Follow::new(&dir.join("audit"));
    assert_eq!(seqs(&mut follow), [1, 2, 3]);
    // Both between two looks, and the new one is longer.
    fs::rename(dir.join("audit"), dir.join("old")).unwrap();
    let door = open(&dir);
    (1..=3).for_each(|replicas| act(&door, replicas));
    drop(door);
    assert_eq!(seqs(&mut follow), [1, 2, 3, 4, 5, 6, 7]);
    // With nothing there in between.
    fs::remove_dir_all(dir.join("audit")).unwrap();
    assert_eq!(seqs(&mut follow), [0; 0]);
    act(&open(&dir), 1);
    assert_eq!(seqs(&mut follow), [1, 2, 3]);
}

/// A file system may give the number of a removed file to the next one at once. Here it is the same
/// file every time, whatever the file system does.
#[test]
fn another_file_is_read_from_its_start_also_when_it_has_the_inode_of_the_last_one() {
    let dir = folder("followed-inode");
    act(&open(&dir), 1);
    let mut follow = Follow::new(&dir.join("audit"));
    assert_eq!(seqs(&mut follow), [1, 2, 3]);
    // The folder was empty in between.
    fs::rename(path(&dir, 1), dir.join("away")).unwrap();
    assert_eq!(seqs(&mut follow), [0; 0]);
    fs::rename(dir.join("away"), path(&dir, 1)).unwrap();
    assert_eq!(seqs(&mut follow), [1, 2, 3]);
    // The last file was dropped when the next one was there.
    fs::rename(path(&dir, 1), path(&dir, 2)).unwrap();
    assert_eq!(seqs(&mut follow), [1, 2, 3]);
}

#[test]
fn a_new_record_that_has_the_followed_file_already_is_followed_from_its_first_file() {
    let (dir, other) = (folder("followed-file"), folder("followed-file-other"));
    act(&open(&dir), 1);
    fs::rename(path(&dir, 1), path(&dir, 2)).unwrap();
    let mut follow = Follow::new(&dir.join("audit"));
    assert_eq!(seqs(&mut follow), [1, 2, 3]);
    // Another key signs it, so its first line is another one.
    let door = open(&other);
    (1..=3).for_each(|replicas| act(&door, replicas));
    drop(door);
    let begun = fs::read(path(&other, 1)).unwrap();
    assert_ne!(begun, fs::read(path(&dir, 2)).unwrap());
    fs::write(path(&dir, 1), &begun).unwrap();
    // It keeps its inode.
    fs::write(path(&dir, 2), &begun).unwrap();
    assert_eq!(seqs(&mut follow), [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(seqs(&mut follow), [0; 0]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let dir = recorded("followed-unreadable");
    let mut follow = Follow::new(&dir.join("audit"));
    fs::remove_file(path(&dir, 1)).unwrap();
    fs::create_dir(path(&dir, 1)).unwrap();
    let error = follow.lines().unwrap_err();
    assert_eq!(error.to_string(), "000001.jsonl: it is a folder, not a regular file");
    assert!(matches!(error, Unsound::Tampered(_)));
    fs::remove_dir_all(dir.join("audit")).unwrap();
    fs::write(dir.join("audit"), "").unwrap();
    let error = follow.lines().unwrap_err();
    assert_eq!(error.to_string(), dir.join("audit").display().to_string());
    assert!(matches!(error, Unsound::Unreadable { .. }));
}
