//! Headers that a route sets, adds and removes.

use super::{SAME, V1, play};

/// Requests, and the headers that change on the way.
const ROWS: [(&str, &str); 7] = [
    ("/set some-other-header:val", "x-header-set:set-overwrites-values"),
    (
        "/set some-other-header:val x-header-set:some-other-value",
        "x-header-set:set-overwrites-values",
    ),
    ("/add some-other-header:val", "x-header-add:add-appends-values"),
    (
        "/add some-other-header:val x-header-add:some-other-value",
        "x-header-add:some-other-value,add-appends-values",
    ),
    ("/remove x-header-remove:val", "-x-header-remove"),
    (
        "/multiple x-header-set-2:set-val-2 x-header-add-2:add-val-2 \
         x-header-remove-2:remove-val-2 another-header:another-header-val",
        "x-header-add-1:header-add-1 x-header-add-2:add-val-2,header-add-2 \
         x-header-add-3:header-add-3 -x-header-remove-2 x-header-set-1:header-set-1 \
         x-header-set-2:header-set-2",
    ),
    (
        "/case-insensitivity x-header-set:original-val-set x-header-add:original-val-add \
         x-header-remove:original-val-remove another-header:another-header-val",
        "x-header-add:original-val-add,header-add -x-header-remove x-header-set:header-set",
    ),
];

#[test]
fn request_headers_are_set_added_and_removed() {
    let rows: Vec<(&str, String)> =
        ROWS.iter().map(|(request, change)| (*request, format!("{V1} {change}"))).collect();
    let rows: Vec<(&str, &str)> = rows.iter().map(|(r, e)| (*r, e.as_str())).collect();
    play("httproute-request-header-modifier", SAME, &rows);
    play("httproute-request-header-modifier-backend", SAME, &rows);
}

#[test]
fn answer_headers_are_set_added_and_removed() {
    let rows: Vec<(&str, String)> = ROWS[..6]
        .iter()
        .map(|(request, change)| (*request, format!("{V1} answer {change}")))
        .collect();
    let mut rows: Vec<(&str, &str)> = rows.iter().map(|(r, e)| (*r, e.as_str())).collect();
    let cases = format!(
        "{V1} answer x-header-add:original-val-add,header-add -x-header-remove \
         x-header-set:header-set x-lowercase-add:lowercase-add \
         x-mixedcase-add-1:mixedcase-add-1 x-mixedcase-add-2:mixedcase-add-2 \
         x-uppercase-add:uppercase-add"
    );
    rows.push((ROWS[6].0, &cases));
    let both = format!(
        "{V1} x-header-add:header-val-1 x-header-add-append:header-val-2 \
         x-header-set:set-overwrites-values answer x-header-add-1:header-add-1 \
         x-header-add-2:header-add-2 x-header-set-1:header-set-1 x-header-set-2:header-set-2"
    );
    rows.push(("/response-and-request-header-modifiers", &both));
    play("httproute-response-header-modifier", SAME, &rows);
}
