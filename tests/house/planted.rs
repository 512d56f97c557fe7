//! Tests of the rules themselves: each finds what is planted in a small tree, and nothing in a clean one.

use crate::House;
use crate::cut::without_tests;
use crate::lexer::mask;
use crate::modules::edges;
use crate::source::Tree;
use crate::words;

const ORDER: &str = "\
[folders]
device
memory
buffer
api
[rooms]
state
object
[known to all]
access =
error = access device/id
[tests alone]
model
[methods of other crates]
map";

const WORDS: &str = "[words]\nwhoever\nin bounds\n[counts]\nengine/memory 1";

const CLEAN: [(&str, &str); 10] = [
    ("engine/access.rs", "pub enum Access { Read }"),
    (
        "engine/lib.rs",
        "mod device;\nmod memory;\npub use memory::Backing;\npub use buffer::Shared;",
    ),
    ("engine/error.rs", "use crate::device::DeviceId;\npub enum Error { Lost(DeviceId) }"),
    ("engine/device/mod.rs", "mod id;\npub use id::DeviceId;"),
    ("engine/device/id.rs", "/// \"Whoever\" is no word of `memory`'s.\npub struct DeviceId(u32);"),
    ("engine/memory/mod.rs", "mod backing;\n#[cfg(test)]\nmod checks;\npub use backing::Backing;"),
    ("engine/memory/backing.rs", "use crate::device::DeviceId;\npub struct Backing(DeviceId);"),
    ("engine/memory/checks.rs", "use crate::buffer::Shared;\n// Whoever reads this.\n"),
    ("engine/buffer/state/place.rs", "use crate::Backing;\npub struct Place(Backing);"),
    (
        "engine/buffer/object/shared.rs",
        "pub struct Shared;\nimpl Shared {\n    pub fn attach(&self) {}\n    pub fn map(&self) {}\n}",
    ),
];

/// The clean tree, with `path` added or put in place of the file there.
fn planted(path: &str, text: &str, exceptions: &str) -> House {
    let kept = CLEAN.into_iter().filter(|(known, _)| *known != path);
    let rooms = [
        ("engine/buffer/mod.rs", "mod object;\nmod state;\npub use object::Shared;"),
        ("engine/buffer/object/mod.rs", "mod shared;\npub use shared::Shared;"),
        ("engine/buffer/state/mod.rs", "mod place;\npub(in crate::buffer) use place::Place;"),
    ];
    let tree = Tree::of(kept.chain(rooms).chain([(path, text)]));
    let words = WORDS.replace("engine/memory 1", "engine/device 1\nengine/memory 1");
    House::new(tree, ORDER, exceptions, &words)
}

fn messages(house: &House) -> Vec<String> {
    let rules = ["direction", "rooms", "circles", "methods", "places", "sizes"];
    let mut messages: Vec<_> = rules.iter().flat_map(|rule| house.judge(rule)).collect();
    messages.extend(words::judge(&words::find(&house.tree, &house.words), &house.words));
    messages
}

/// Asserts that there is one message, and what it says.
#[track_caller]
fn one(messages: &[String], parts: &[&str]) {
    assert_eq!(messages.len(), 1, "{}", messages.join("\n"));
    for part in parts {
        assert!(messages[0].contains(part), "no {part:?} in: {}", messages[0]);
    }
}

#[test]
fn a_clean_tree_passes() {
    let house = planted("engine/api/engine.rs", "use crate::Backing;", "");
    assert_eq!(messages(&house), Vec::<String>::new());
}

#[test]
fn an_upward_import_is_found() {
    let text = "pub struct Backing;\n\nfn of(_: &crate::buffer::Shared) {}";
    let house = planted("engine/memory/backing.rs", text, "");
    let wanted = [
        "engine/memory/backing.rs:3: names `crate::buffer::Shared`",
        "which is in engine/buffer/object/shared.rs",
        "a folder knows those before it: memory comes before buffer",
        "do: move what is needed down",
        "engine/memory/backing.rs -> engine/buffer/object/shared.rs  # the reason",
    ];
    one(&house.judge("direction"), &wanted);
}

#[test]
fn an_exception_excuses_and_must_be_needed() {
    let exception =
        "[direction]\nengine/memory/backing.rs -> engine/buffer/object/shared.rs  # why";
    let text = "use crate::buffer::Shared;\npub struct Backing(Shared);";
    let house = planted("engine/memory/backing.rs", text, exception);
    assert_eq!(house.judge("direction"), Vec::<String>::new());
    let house = planted("engine/api/engine.rs", "", exception);
    one(&house.judge("direction"), &["exceptions.txt:2: remove this line"]);
}

#[test]
fn what_is_known_to_all_knows_only_what_is_listed() {
    let house = planted("engine/error.rs", "use crate::memory::Backing;", "");
    one(&house.judge("direction"), &["engine/error.rs:1", "may know only: access, device/id"]);
    let house = planted("engine/error.rs", "use crate::access::Access;", "");
    assert_eq!(house.judge("direction"), Vec::<String>::new());
}

#[test]
fn a_folder_without_a_place_in_the_order_is_found() {
    let house = planted("engine/image/layout.rs", "use crate::memory::Backing;", "");
    one(&house.judge("direction"), &["image has no place in tests/house/order.txt"]);
}

#[test]
fn the_program_knows_the_public_api_alone() {
    let house = planted("engine/cli/main.rs", "use peerbuf::Backing;\nfn main() {}", "");
    assert_eq!(messages(&house), Vec::<String>::new());
    assert_eq!(edges(&house.tree).iter().filter(|edge| edge.from.contains("cli")).count(), 0);
}

#[test]
fn an_upward_import_between_rooms_is_found() {
    let text = "use super::super::object::Shared;\npub struct Place(Shared);";
    let house = planted("engine/buffer/state/place.rs", text, "");
    let wanted =
        ["engine/buffer/state/place.rs:1", "a room knows those before it: state comes before"];
    one(&house.judge("rooms"), &wanted);
}

#[test]
fn a_file_of_the_buffer_outside_of_rooms_is_found() {
    let house = planted("engine/buffer/stray.rs", "", "");
    one(&house.judge("rooms"), &["engine/buffer/stray.rs: is in no room"]);
}

#[test]
fn a_circle_is_found_and_told() {
    let text = "\nuse crate::memory::Backing;\npub struct DeviceId(Backing);";
    let house = planted("engine/device/id.rs", text, "");
    let wanted = [
        "2 files know each other in a circle",
        "engine/device/id.rs:2 names `crate::memory::Backing`, in engine/memory/backing.rs",
        "engine/memory/backing.rs:1 names `crate::device::DeviceId`, in engine/device/id.rs",
    ];
    one(&house.judge("circles"), &wanted);
}

#[test]
fn a_listed_circle_passes_until_it_becomes_smaller_or_larger() {
    let text = "use crate::memory::Backing;\npub struct DeviceId(Backing);";
    let of = |files: &str| {
        planted("engine/device/id.rs", text, &format!("[circles]\n{files}  # a knot"))
    };
    let both = "engine/device/id.rs engine/memory/backing.rs";
    assert_eq!(of(both).judge("circles"), Vec::<String>::new());
    let smaller = of(&format!("{both} engine/memory/pool.rs")).judge("circles");
    assert_eq!(smaller.len(), 2, "{smaller:?}");
    assert!(smaller[0].contains("has become smaller than listed: 2 files"), "{smaller:?}");
    assert!(smaller[1].contains("remove this line"), "{smaller:?}");
    let larger = of("engine/device/id.rs engine/device/other.rs").judge("circles");
    assert!(larger[0].contains("engine/memory/backing.rs:1 names"), "{larger:?}");
}

#[test]
fn an_upward_method_call_is_found_without_an_import() {
    let text = "pub struct Place;\nfn f(of: &Of) {\n    of.attach();\n    of.map();\n}";
    let house = planted("engine/buffer/state/place.rs", text, "");
    let wanted = [
        "engine/buffer/state/place.rs:3: calls `.attach(…)`",
        "engine/buffer/object/shared.rs defines",
        "do: move the method down",
    ];
    one(&house.judge("methods"), &wanted);
    let text = "fn f(of: &Of) {\n    Shared::map(of);\n}";
    let house = planted("engine/buffer/state/place.rs", text, "");
    one(&house.judge("methods"), &["place.rs:2: calls `Shared::map(…)`"]);
}

#[test]
fn a_method_of_a_trait_below_may_be_called() {
    let text = "trait Attach { fn attach(&self); }\nfn f(of: &dyn Attach) {\n    of.attach();\n}";
    let house = planted("engine/buffer/state/place.rs", text, "");
    assert_eq!(house.judge("methods"), Vec::<String>::new());
}

#[test]
fn words_of_code_outside_of_their_place_are_found() {
    let cases = [
        ("engine/residency/room.rs", "use ash::vk;", "residency knows no Vulkan"),
        ("engine/image/negotiate/judge.rs", "use ash::vk;", "a negotiation knows no Vulkan"),
        ("engine/memory/heap.rs", "fn f() {\n OwnedFd::from_raw_fd(3) }", "in engine/fd.rs alone"),
        ("engine/memory/heap.rs", "use gpu_allocator::x;", "use it for staging"),
        ("engine/api/c.rs", "extern \"C\" fn f() {}", "the C API is a package of its own"),
    ];
    for (path, text, rule) in cases {
        one(&planted(path, text, "").judge("places"), &[path, rule]);
    }
    let allowed = [
        ("engine/fd.rs", "fn f() { OwnedFd::from_raw_fd(3) }"),
        ("engine/memory/staging.rs", "use gpu_allocator::x;"),
        (
            "engine/memory/heap.rs",
            "use ash::vk; // from_raw_fd\nunsafe extern \"system\" fn f() {}",
        ),
    ];
    for (path, text) in allowed {
        assert_eq!(planted(path, text, "").judge("places"), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn a_file_that_is_too_long_is_found() {
    for (path, most) in [
        ("engine/memory/heap.rs", 400),
        ("engine/memory/tests.rs", 600),
        ("tests/copy.rs", 600),
        ("engine/buffer/object/mod.rs", 70),
    ] {
        let lines = |count: usize| "\n".repeat(count);
        assert_eq!(planted(path, &lines(most), "").judge("sizes"), Vec::<String>::new(), "{path}");
        one(
            &planted(path, &lines(most + 1), "").judge("sizes"),
            &[path, &format!("at most {most}")],
        );
    }
}

#[test]
fn a_listed_word_more_or_less_is_found() {
    let judge = |text| messages(&planted("engine/memory/heap.rs", text, ""));
    let more = judge("//! Waits\n//! in\n//! bounds.");
    assert_eq!(more.len(), 2, "{more:?}");
    assert!(
        more[0].contains("engine/memory: 2 words that prose does without, 1 are listed"),
        "{more:?}"
    );
    assert!(more[0].contains("engine/memory/heap.rs:2: in bounds"), "{more:?}");
    assert!(more[1].ends_with("[counts]\nengine/device 1\nengine/memory 2"), "{more:?}");
    for text in ["const S: &str = \"WHOEVER\";", "#[test]\n#[cfg(test)]\nfn whoever_waits() {}"] {
        assert_eq!(judge(text).len(), 2, "{text}");
    }
    for text in ["fn whoever() {}", "// We are in. Bounds are checked.", "let whoever = 'w';"] {
        assert_eq!(judge(text), Vec::<String>::new(), "{text}");
    }
    let less = messages(&planted("engine/memory/checks.rs", "", ""));
    assert!(less[0].contains("words.txt:6: engine/memory: lower the number to 0"), "{less:?}");
}

#[test]
fn blessed_tables_excuse_everything_and_keep_reasons() {
    let text = "use crate::memory::Backing;\npub struct DeviceId(Backing); // whoever";
    let exceptions = "[circles]\n# A note.\nengine/device/id.rs engine/gone.rs  # a knot";
    let house = planted("engine/device/id.rs", text, exceptions);
    assert_ne!(messages(&house), Vec::<String>::new());
    let (exceptions, words) = house.blessed();
    assert!(exceptions.text().contains("backing.rs  # a knot"), "{}", exceptions.text());
    assert!(exceptions.text().contains("# A note."), "{}", exceptions.text());
    let house = House::new(house.tree, ORDER, &exceptions.text(), &words.text());
    assert_eq!(messages(&house), Vec::<String>::new());
}

#[test]
fn every_form_of_import_is_an_edge_to_the_defining_file() {
    let forms = [
        "use crate::memory::Backing;",
        "use crate::{device::DeviceId, memory::{Backing as B}};",
        "use super::super::{memory::{self, Backing}};",
        "use crate::memory;\nfn f(_: memory::Backing) {}",
        "use crate::memory as m;\nfn f(_: m::Backing) {}",
        "use crate::memory::*;\nfn f(_: Backing) {}",
        "fn f(_: crate::memory::Backing) {}",
        "fn f() { use crate::memory::Backing; }",
        "mod inner { fn f(_: super::super::super::memory::Backing) {} }",
        "pub(crate) use crate::memory::backing::Backing;",
        "fn f<'a>(c: char) { c == '\"'; crate::memory::Backing::new(); \"\" }",
    ];
    for text in forms {
        let tree = planted("engine/api/engine.rs", text, "").tree;
        let edges = edges(&tree);
        let mut to = edges.iter().filter(|edge| edge.from == "engine/api/engine.rs");
        // XX by `*` knows its file; all others know what they name.
        let file = if text.contains('*') { "memory/mod.rs" } else { "memory/backing.rs" };
        assert!(to.any(|edge| edge.to.ends_with(file)), "{text}: {edges:?}");
    }
}

#[test]
fn comments_strings_tests_and_visibilities_are_no_imports() {
    let forms = [
        "// crate::memory::Backing",
        "/* /* */ crate::memory::Backing */",
        "const S: &str = \"\\\" crate::memory::Backing\";",
        "const S: &str = r#\"\" crate::memory::Backing\"#;",
        "#[cfg(test)]\nmod tests {\n    use crate::memory::Backing;\n}",
        "#[cfg(all(test, peerbuf_shuttle))]\nuse crate::memory::{Backing};",
        "pub(in crate::memory) struct A;",
        "use ash::memory::Backing;",
    ];
    for text in forms {
        let tree = planted("engine/api/engine.rs", text, "").tree;
        let edges = edges(&tree);
        assert!(!edges.iter().any(|edge| edge.from == "engine/api/engine.rs"), "{text}: {edges:?}");
    }
}

#[test]
fn code_and_prose_are_told_apart() {
    let text = "let c: &'a str = \"é // no\"; // \"yes\n'\\'' b'\"' r#x";
    let masked = mask(text);
    assert_eq!((masked.code.len(), masked.prose.len()), (text.len(), text.len()));
    assert_eq!(
        masked.code.split_whitespace().collect::<Vec<_>>().join(" "),
        "let c: &'a str = ; b r#x"
    );
    assert!(masked.prose.contains("é // no") && masked.prose.contains("// \"yes"));
}

#[test]
fn what_is_compiled_for_tests_alone_is_cut() {
    let cases = [
        ("#[cfg(test)]\nuse a::{b, c};\nkept", "kept"),
        ("struct S { #[cfg(test)] a: (u8, u8), kept: u8 }", "struct S {  kept: u8 }"),
        ("#[cfg(any(test, debug))] fn kept() {}", "#[cfg(any(test, debug))] fn kept() {}"),
        ("#[cfg(not(test))] fn kept() {}", "#[cfg(not(test))] fn kept() {}"),
        ("#[cfg(test)]\n#[expect(x)]\npub(crate) fn f<A>() -> [u8; 2] { { } } kept", "kept"),
        ("#![cfg(test)]\nfn f() {}", ""),
    ];
    for (code, wanted) in cases {
        let kept: Vec<_> = without_tests(code).code.split_whitespace().map(str::to_owned).collect();
        assert_eq!(kept, wanted.split_whitespace().collect::<Vec<_>>(), "{code}");
    }
    assert_eq!(
        without_tests("#[cfg(test)]\nmod a;\n#[cfg(test)]\nmod b { use c; }").modules,
        ["a"]
    );
}
