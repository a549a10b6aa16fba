//! What stands in a file's place, who else is there, and what a write costs.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use wiredflow_core::ErrorKind;
use wiredflow_core::storage::Mapping;

use super::{
    FILES, KINDS, Place, all_loaded, check_refused, commit, load, record, records, try_commit,
};

#[test]
fn h11_a_symbolic_link_in_the_files_place_is_refused_and_not_followed() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        fs::create_dir(folder.path().join("data")).unwrap();
        let target = folder.path().join("target");
        symlink(&target, place.file()).unwrap();
        check_refused(place.try_open(), ErrorKind::Config, &["symbolic link"]);
        assert!(
            !target.exists(),
            "{kind}: a dangling link was written through"
        );
        fs::write(&target, "[1]\n").unwrap();
        check_refused(place.try_open(), ErrorKind::Config, &["symbolic link"]);
        assert_eq!(fs::read_to_string(&target).unwrap(), "[1]\n", "{kind}");
    }
}

#[test]
fn h11_a_link_in_the_place_of_the_file_beside_is_not_followed() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Overwrite);
        let mut storage = place.open();
        commit(storage.as_mut(), &records(0..1));
        let target = folder.path().join("target");
        fs::write(&target, "mine").unwrap();
        let beside = format!("{}.new", place.file().display());
        symlink(&target, beside).unwrap();
        commit(storage.as_mut(), &records(1..2));
        assert_eq!(fs::read_to_string(&target).unwrap(), "mine", "{kind}");
        assert_eq!(load(storage.as_mut()), all_loaded(kind, &records(1..2)));
    }
}

#[test]
fn h11_a_folder_that_is_a_link_is_the_authors_choice() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let disk = tempfile::tempdir().unwrap();
        symlink(disk.path(), folder.path().join("data")).unwrap();
        let place = Place::new(folder.path(), kind);
        commit(place.open().as_mut(), &records(0..1));
        assert_eq!(place.load(), all_loaded(kind, &records(0..1)));
        assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1, "{kind}");
    }
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        fs::create_dir_all(place.file()).unwrap();
        check_refused(place.try_open(), ErrorKind::Config, &["data/"]);
        fs::remove_dir(place.file()).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(place.file())
            .status();
        assert!(made.unwrap().success());
        check_refused(place.try_open(), ErrorKind::Config, &["data/"]);

        fs::remove_dir_all(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data"), "a file in the folder's place").unwrap();
        let refused = place
            .try_open()
            .and_then(|mut storage| try_commit(storage.as_mut(), &[record(1)]));
        check_refused(refused, ErrorKind::Config, &["data"]);
    }
}

#[test]
fn a_second_writer_of_the_same_file_is_refused_until_the_first_is_gone() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind).mapping(Mapping::Overwrite);
        let mut first = place.open();
        for round in 0..2 {
            commit(first.as_mut(), &records(round..round + 1));
            check_refused(place.try_open(), ErrorKind::Config, &["in use"]);
        }
        drop(first);
        assert_eq!(place.load(), all_loaded(kind, &records(1..2)));
    }
}

#[test]
fn b8_a_file_that_was_removed_replaced_or_changed_is_noticed_before_anything_is_written() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let mut storage = place.open();
        commit(storage.as_mut(), &records(0..1));
        fs::remove_file(place.file()).unwrap();
        let refused = try_commit(storage.as_mut(), &records(1..2));
        check_refused(refused, ErrorKind::Remote, &["removed"]);
        drop(storage);

        let mut storage = place.open();
        commit(storage.as_mut(), &records(1..2));
        let bytes = fs::read(place.file()).unwrap();
        fs::remove_file(place.file()).unwrap();
        fs::write(place.file(), &bytes).unwrap();
        let refused = try_commit(storage.as_mut(), &records(2..3));
        check_refused(refused, ErrorKind::Remote, &["replaced"]);
        drop(storage);

        let mut storage = place.open();
        fs::write(place.file(), [&bytes[..], b" "].concat()).unwrap();
        let refused = storage.load(&Default::default());
        check_refused(refused, ErrorKind::Remote, &["changed"]);
        drop(storage);
        assert_eq!(place.load(), all_loaded(kind, &records(1..2)), "{kind}");
    }
}

#[test]
fn key_is_refused_where_a_row_cannot_be_found() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Place::new(folder.path(), kind);
        place.key = Some("id");
        let problems = place.check().unwrap_err();
        assert!(
            problems[0]
                .message
                .contains("`key` needs a storage that can find a row")
        );
        assert!(problems[0].help.as_deref().unwrap().contains("`sqlite`"));
    }
}

#[test]
fn an_own_folder_is_made_with_its_parents_and_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Place::new(folder.path(), kind).mapping(Mapping::Overwrite);
        place.config = "{folder: a/b/../c}";
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        let mut storage = place.open();
        commit(storage.as_mut(), &records(0..1));
        let file = folder.path().join(format!("a/c/{kind}_in_numbers.{kind}"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        commit(storage.as_mut(), &records(0..1));
        let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o640, "{kind}");
    }
}

/// What this thread has read and written so far, in bytes.
fn bytes_moved() -> [u64; 2] {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    ["rchar: ", "wchar: "].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    })
}

#[test]
fn b10_a_commit_reads_nothing_and_writes_its_own_rows_however_long_the_file_is() {
    for kind in FILES {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), kind);
        let mut storage = place.open();
        let row = json!({"number": 1, "text": "always as long as this"});
        let cost = |storage: &mut dyn wiredflow_core::storage::Storage| {
            let before = bytes_moved();
            // Reading the figures costs a read of its own.
            let own = bytes_moved()[0] - before[0];
            let begin = bytes_moved();
            commit(storage, std::slice::from_ref(&row));
            let end = bytes_moved();
            ((end[0] - begin[0]).saturating_sub(own), end[1] - begin[1])
        };
        commit(storage.as_mut(), std::slice::from_ref(&row));
        let small = cost(storage.as_mut());
        let many = vec![row.clone(); 8192];
        while fs::metadata(place.file()).unwrap().len() < 3_000_000 {
            commit(storage.as_mut(), &many);
        }
        let large = cost(storage.as_mut());
        assert!(
            small.0 < 8 && large.0 < 8,
            "{kind} reads: {small:?} {large:?}"
        );
        assert_eq!(small.1, large.1, "{kind}");
        assert!(
            large.1 <= row.to_string().len() as u64 + 5,
            "{kind}: {large:?}"
        );

        drop(storage);
        let begin = bytes_moved();
        let storage = place.open();
        let opened = bytes_moved()[0] - begin[0];
        // Only csv looks at all of it: a line end may stand in quotes.
        let most = if kind == "csv" { 3_300_000 } else { 100_000 };
        assert!(opened < most, "{kind}: opening has read {opened} bytes");
        drop(storage);
    }
}
