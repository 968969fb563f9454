use serde_json::json;

use super::*;

/// Whether `rule` holds for a value of a schema, in words.
fn says(schema: &Value, rule: &str, value: &Value, old: Option<&Value>) -> String {
    let mut schema = schema.clone();
    schema["x-kubernetes-validations"] = json!([{"rule": rule, "message": "broken"}]);
    let schema = json!({"type": "object", "properties": {"spec": schema}});
    let mut causes = Vec::new();
    let tree = RuleTree::compile(&schema, "schema", &mut causes);
    if let Some(cause) = causes.first() {
        return cause.message.split('\n').next().unwrap().to_owned();
    }
    let (body, old) = (json!({"spec": value}), old.map(|old| json!({"spec": old})));
    let found = tree.unwrap().check(&schema, &body, old.as_ref(), &mut Vec::new());
    found.first().map_or("holds".to_owned(), |cause| cause.message.clone())
}

fn any() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
        "a": {"type": "integer"}, "b": {"type": "number"}, "s": {"type": "string"},
        "l": {"type": "array", "items": {"type": "integer"}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "string"}},
        "x-y": {"type": "boolean"}, "at": {"type": "string", "format": "date-time"},
        "for": {"type": "string", "format": "duration"},
        "o": {"type": "object", "properties": {"p": {"type": "string"}}}}})
}

#[test]
fn expressions_have_the_value_that_the_language_gives_them() {
    let value = json!({"a": 7, "b": 1.5, "s": "Ärger", "l": [3, 1, 2], "set": ["x", "y"],
        "m": {"k": "v"}, "x-y": true, "at": "2026-01-02T03:04:05Z", "for": "1h30m", "o": {}});
    for rule in [
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && 7 % 4 == 3 && -7 / 2 == -3",
        "self.a == 7 && self.b < 2.0 && self.a > 6 ? true : false",
        "self.s.size() == 5 && size(self.l) == 3 && self.m.size() == 1",
        "self.l.all(x, x > 0) && self.l.exists(x, x == 2) && self.l.exists_one(x, x == 1)",
        "self.l.map(x, x * 2) == [6, 2, 4] && self.l.filter(x, x > 1).size() == 2",
        "self.l.map(x, x > 1, x + 1) == [4, 3]",
        "self.m.all(k, self.m[k] == 'v') && 'k' in self.m && !('z' in self.m)",
        "2 in self.l && !(9 in self.l) && self.l[0] == 3",
        "has(self.s) && !has(self.o.p) && self.x__dash__y",
        "self.set == ['y', 'x'] && self.set + ['x', 'z'] == ['x', 'y', 'z']",
        "self.s.startsWith('Ä') && self.s.endsWith('er') && self.s.contains('rg')",
        "self.s.matches('^.r') && 'a,b'.split(',') == ['a', 'b'] && ['a','b'].join('-') == 'a-b'",
        "'abc'.substring(1) == 'bc' && 'abc'.substring(0, 1) == 'a' && 'abc'.charAt(1) == 'b'",
        "'aXa'.replace('a', 'b') == 'bXb' && ' x '.trim() == 'x' && 'Ab'.lowerAscii() == 'ab'",
        "'a1b22'.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22']",
        "[1, 2].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && [3, 1].max() == 3",
        "self.at < timestamp('2027-01-01T00:00:00Z') && self.at.getFullYear() == 2026",
        "self.for == duration('90m') && duration('1.5s').getMilliseconds() == 1500",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('0.5')).asInteger() == 1",
        "isQuantity('1.5Gi') && !isQuantity('x') && quantity('-1').sign() == -1",
        "isURL('https://a.b:80/c?d=e') && url('https://a.b:80/c').getPort() == '80' && !isURL('a')",
        "url('https://[::1]:80/').getHostname() == '::1' && url('/a').getHost() == ''",
        "self.o.?p.orValue('d') == 'd' && self.?s.hasValue() && optional.none().orValue(1) == 1",
        "self.?s.optMap(s, s.size()).orValue(0) == 5",
        "type(self.a) == int && type('x') == string && int('5') == 5 && string(5) == '5'",
        "true || 1 / 0 == 1",
        "[1 / 1, 2].exists(x, x == 2 || 1 / 0 == 1)",
        "{'a': 1}['a'] == 1 && {'a': 1} == {'a': 1} && b'ab' == bytes('ab')",
        "sets.contains([1, 2], [1]) && sets.intersects([1], [1, 3]) && !sets.equivalent([1], [2])",
        "self.s == r'Ärger' && '''a'b''' == \"a'b\" && '\\u00c4' == 'Ä' && 0x10 == 16 && 1u < 2",
        "dyn(1) == 1.0 && -9223372036854775808 < 0 && 1e3 == 1000.0",
    ] {
        assert_eq!(says(&any(), rule, &value, None), "holds", "{rule}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    for (rule, said) in [
        ("self.z == 1", "1:5: undefined field 'z'"),
        ("self.a ==", "1:10: Syntax error: mismatched input '<EOF>'"),
        ("other == 1", "1:1: undeclared reference to 'other'"),
        ("nothing(self)", "1:8: undeclared reference to 'nothing'"),
        ("self.a", "must evaluate to a bool"),
        ("self.a == 'x'", "no matching overload for '_==_' applied to '(int, string)'"),
        ("ip('::1') == ip('::1')", "function 'ip' is not supported by this cluster"),
        ("self.s.matches('[')", "error parsing regexp"),
        ("self.a && true", "no matching overload for '_&&_'"),
        ("self.l.all(1, true)", "argument must be a simple name"),
        ("self.s.size(1, 2) == 1", "found no matching overload for 'size'"),
        ("\"open", "token recognition error"),
    ] {
        let found = says(&any(), rule, &json!({}), None);
        assert!(found.contains(said), "{rule}: {found}");
    }
    let deep = format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000));
    assert!(says(&any(), &deep, &json!({}), None).contains("recursion limit"));
}

#[test]
fn no_length_of_a_rule_exhausts_the_stack() {
    let holds = |rule: &str| says(&any(), rule, &json!({"a": 1}), None);
    for sign in ["||", "&&"] {
        assert_eq!(holds(&vec!["self.a == 1"; 5_000].join(sign)), "holds");
    }
    // These make the tree as deep as they are many.
    let sum = |terms: usize| format!("{} == {terms}", vec!["1"; terms].join("+"));
    assert_eq!(holds(&sum(240)), "holds");
    assert!(holds(&sum(300)).contains("recursion limit"));
    assert!(holds(&sum(49_000)).contains("recursion limit"));
    assert!(holds(&format!("self{}", ".a".repeat(40_000))).contains("recursion limit"));
    assert!(holds(&format!("self.l{} == 1", "[0]".repeat(30_000))).contains("recursion limit"));
    assert!(holds(&format!("'x'{} == 'x'", ".trim()".repeat(10_000))).contains("recursion limit"));
    assert!(holds(&"true||".repeat(20_000)).contains("code point size exceeds limit"));
}

#[test]
fn the_smallest_integer_has_no_positive_one() {
    assert!(says(&any(), "--9223372036854775808 > 0", &json!({}), None).contains("overflow"));
    assert_eq!(says(&any(), "-9223372036854775808 < 0", &json!({}), None), "holds");
}

#[test]
fn a_rule_that_fails_or_takes_too_long_says_so() {
    let value = json!({"l": [1], "m": {}, "a": 0});
    for (rule, said) in [
        ("self.m['x'] == 'y'", "no such key: x evaluating rule: broken"),
        ("self.l[5] == 1", "index out of bounds: 5 evaluating rule: broken"),
        ("1 / self.a == 1", "division by zero evaluating rule: broken"),
        ("dyn(self.a).startsWith('x')", "'no such overload': call arguments did not match"),
        ("self.a == 1", "Invalid value: \"object\": broken"),
    ] {
        let found = says(&any(), rule, &value, None);
        assert!(found.contains(said), "{rule}: {found}");
    }
    let many: Vec<i64> = (0..1_000).collect();
    let rule = "self.l.all(x, self.l.all(y, self.l.all(z, x + y + z >= 0)))";
    let found = says(&any(), rule, &json!({"l": many}), None);
    assert!(found.contains("call cost exceeds limit for rule"), "{found}");
}

#[test]
fn what_was_there_before_is_compared_where_it_can_be_told_apart() {
    let (old, new) = (json!({"a": 2}), json!({"a": 1}));
    let rule = "self.a >= oldSelf.a";
    assert_eq!(says(&any(), rule, &new, Some(&old)), "Invalid value: \"object\": broken");
    assert_eq!(says(&any(), rule, &new, None), "holds");
    // The same as before: told, not refused.
    assert_eq!(says(&any(), "self.a > 5", &new, Some(&new)), "holds");
    let list = json!({"type": "array", "items": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}});
    let mut causes = Vec::new();
    RuleTree::compile(&list, "schema", &mut causes);
    assert!(causes[0].message.contains("uncorrelatable"), "{}", causes[0].message);
}
