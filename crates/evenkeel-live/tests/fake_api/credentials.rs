//! Kubeconfigs that cannot be used.

use std::path::Path;

use evenkeel_live::connect;

/// Why there is no connection with a kubeconfig of this text.
async fn refused(folder: &Path, text: &str) -> String {
    let file = folder.join("kubeconfig");
    std::fs::write(&file, text).unwrap();
    let words = connect(Some(&file)).await.err().unwrap().to_string();
    let prefix = format!("kubeconfig {}: ", file.display());
    assert!(words.starts_with(&prefix), "{words}");
    words.trim_start_matches(&prefix).to_owned()
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_read_is_reported_by_line_and_column_and_never_quoted() {
    let folder = std::env::temp_dir().join(format!("evenkeel-broken-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let cases = [
        ("users:\n- name: a\n  user:\n    token: pl4nted\n    exec: 3\n", "line 5, column"),
        ("users:\n- name: a\n  user: pl4nted\n", "line 3, column"),
        ("users:\n- user: {token: pl4nted}\n", "name"),
        ("users:\n- name: a\n  user: {token: pl4nted}\n  user: {token: pl4nted}\n", "line 4"),
        ("users:\n- name: a\n  user: {token: pl4nted\n", "line"),
        ("users: {pl4nted: \"pl4nted\n", "line"),
        ("users: *pl4nted\n", "line 1"),
        ("users:\n- name: a\n  user: {exec: {interactiveMode: pl4nted}}\n", "line 3"),
        ("kind: a\ntoken: pl4nted: pl4nted\n", "line 2"),
        ("token: \"\\pl4nted\"\n", "line 1"),
        ("kind: [pl4nted]\n", "line 1"),
        ("a: pl4nted\n b: pl4nted\n", "line"),
    ];
    for (text, expected) in cases {
        let words = refused(&folder, text).await;
        assert!(words.contains(expected) && !words.contains("pl4nted"), "{text}{words}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
