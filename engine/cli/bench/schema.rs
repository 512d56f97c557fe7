//! `docs/bench.schema.json` is true: what is printed is valid by it, and what is wrong is not.

use serde_json::{Map, Value, json};

use super::made::run::rich;

/// The schema that is in the repository.
const SCHEMA: &str = include_str!("../../../docs/bench.schema.json");

/// The words of JSON Schema that the file uses. One that is added to it must be added here, or the test fails.
const WORDS: [&str; 15] = [
    "$schema",
    "title",
    "description",
    "$defs",
    "$ref",
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "anyOf",
    "minimum",
    "exclusiveMinimum",
    "pattern",
];

/// What is wrong with a value, by the schema `root`.
fn errors(value: &Value, schema: &Value, root: &Value, at: &str, found: &mut Vec<String>) {
    let schema = schema.as_object().expect("a schema is an object");
    for word in schema.keys() {
        assert!(WORDS.contains(&word.as_str()), "the word {word} is not checked");
    }
    if let Some(name) = schema.get("$ref") {
        let name = name.as_str().and_then(|name| name.strip_prefix("#/$defs/"));
        let target = name.and_then(|name| root["$defs"].get(name));
        return errors(value, target.expect("it is defined"), root, at, found);
    }
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array) {
        let fits = any.iter().any(|one| {
            let mut tried = vec![];
            errors(value, one, root, at, &mut tried);
            tried.is_empty()
        });
        if !fits {
            // Of the alternatives, the first one says what is wrong; the other one is null.
            errors(value, &any[0], root, at, found);
        }
        return;
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one],
        _ => vec![],
    };
    if !types.is_empty() && !types.iter().any(|one| is(value, one)) {
        found.push(format!("{at} is {value}, not {types:?}"));
        return;
    }
    if schema.get("const").is_some_and(|only| only != value) {
        found.push(format!("{at} is {value}"));
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|all| !all.contains(value)) {
        found.push(format!("{at} is {value}, which is none of the words"));
    }
    if let Some(number) = value.as_f64() {
        let limit = |word: &str| schema.get(word).and_then(Value::as_f64);
        let below = limit("minimum").is_some_and(|least| number < least);
        if below || limit("exclusiveMinimum").is_some_and(|least| number <= least) {
            found.push(format!("{at} is {value}"));
        }
    }
    if let (Some(text), Some(pattern)) = (value.as_str(), schema.get("pattern")) {
        // The only pattern of the file.
        assert_eq!(pattern, "^(host|all|device[0-9]+)$");
        if super::run::End::try_from(text.to_owned()).is_err() {
            found.push(format!("{at} is {value}"));
        }
    }
    if let (Some(items), Some(list)) = (schema.get("items"), value.as_array()) {
        for (index, item) in list.iter().enumerate() {
            errors(item, items, root, &format!("{at}[{index}]"), found);
        }
    }
    if let (Some(properties), Some(object)) = (schema.get("properties"), value.as_object()) {
        fields(object, properties.as_object().expect("an object"), root, at, found);
    }
}

/// Every promised field is there, and every field is promised: the schema leaves nothing out.
fn fields(
    object: &Map<String, Value>,
    properties: &Map<String, Value>,
    root: &Value,
    at: &str,
    found: &mut Vec<String>,
) {
    for (name, schema) in properties {
        match object.get(name) {
            Some(value) => errors(value, schema, root, &format!("{at}.{name}"), found),
            None => found.push(format!("{at} has no {name}")),
        }
    }
    for name in object.keys().filter(|name| !properties.contains_key(*name)) {
        found.push(format!("{at}.{name} is not in the schema"));
    }
}

fn is(value: &Value, what: &str) -> bool {
    match what {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => panic!("the type {other} is not checked"),
    }
}

fn check(value: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("it is JSON");
    let mut found = vec![];
    errors(value, &schema, &schema, "run", &mut found);
    found
}

#[test]
fn a_run_is_valid_and_reads_back_as_it_was() {
    let run = rich(1);
    let value = serde_json::to_value(&run).expect("a run becomes JSON");
    assert_eq!(check(&value), Vec::<String>::new());
    let text = serde_json::to_string(&run).expect("a run becomes JSON");
    let back: super::run::Run = serde_json::from_str(&text).expect("it is a run");
    let back = serde_json::to_value(&back).expect("a run becomes JSON");
    assert!(is_close(&back, &value), "something is lost");
}

/// Whether two values are equal, but for the last digit of a fraction, which the reader of JSON may change.
fn is_close(first: &Value, second: &Value) -> bool {
    match (first, second) {
        (Value::Object(first), Value::Object(second)) => {
            let has = |(name, value)| second.get(name).is_some_and(|other| is_close(value, other));
            first.len() == second.len() && first.iter().all(has)
        }
        (Value::Array(first), Value::Array(second)) => {
            first.len() == second.len()
                && first.iter().zip(second).all(|(one, other)| is_close(one, other))
        }
        (Value::Number(one), Value::Number(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-14,
            _ => one == other,
        },
        _ => first == second,
    }
}

#[test]
fn what_is_wrong_is_found() {
    let valid = serde_json::to_value(rich(1)).expect("a run becomes JSON");
    let wrong: [(&str, Value, &str); 9] = [
        ("/schema", json!(1), "run.schema is 1"),
        ("/program", json!("links"), "run.program"),
        ("/cells/0/summary/median_ns", json!("N/A"), "median_ns is \"N/A\""),
        ("/cells/0/summary/median_ns", json!(-1.0), "median_ns is -1"),
        ("/cells/0/from", json!("gpu0"), "cells[0].from"),
        ("/cells/0/verdict", json!(null), "cells[0].verdict"),
        ("/cells/0/bytes", json!(1.5), "cells[0].bytes"),
        ("/devices/0/pci/numa_node", json!(-2), "numa_node is -2"),
        ("/latency/0/percentiles/p50_ns", json!(null), "p50_ns is null"),
    ];
    for (at, value, expected) in wrong {
        let mut run = valid.clone();
        *run.pointer_mut(at).unwrap_or_else(|| panic!("nothing at {at}")) = value;
        let found = check(&run);
        assert!(found.len() == 1 && found[0].contains(expected), "{at}: {found:?}");
    }
    let mut run = valid.clone();
    let cell = run["cells"][0].as_object_mut().expect("a cell is an object");
    cell.remove("bound");
    cell.insert("surprise".into(), json!(1));
    assert_eq!(
        check(&run),
        ["run.cells[0] has no bound", "run.cells[0].surprise is not in the schema"]
    );
}
