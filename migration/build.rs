//! Compiles the messages between nodes, without an installed `protoc`, to two files in `OUT_DIR`: the types
//! (`watershed.node.v1.rs`, by prost) and `shapes.rs`, a table of where lists are in a message, by which a decoder
//! counts their elements before it makes any.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use protox::prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

const PROTO: &str = "watershed/node/v1/node.proto";
/// Bodies much larger than the others: in a box they don't make each small message a large value to move.
const LARGE: [&str; 5] = [
    ".watershed.node.v1.Request.body.activate",
    ".watershed.node.v1.Response.body.activated",
    ".watershed.node.v1.Response.body.not_activated",
    ".watershed.node.v1.Response.body.drained",
    ".watershed.node.v1.Response.body.verified",
];
const ROOTS: [&str; 2] = ["watershed.node.v1.Request", "watershed.node.v1.Response"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file(PROTO)?;
    let mut config = prost_build::Config::new();
    for body in LARGE {
        config.boxed(body);
    }
    config
        // Records and values are shared with the message they came in, not copied out of it.
        .bytes(["."])
        // The comments are written for readers of the protocol; nobody reads the generated code.
        .disable_comments(["."])
        .compile_fds(compiler.file_descriptor_set())?;

    let pool = compiler.descriptor_pool();
    let mut shapes = Shapes::default();
    for root in ROOTS {
        let root = pool
            .get_message_by_name(root)
            .ok_or_else(|| format!("{PROTO} has no {root}"))?;
        // Each body is in the table of its message, also one without a list: what isn't there is not known.
        let fields = root.fields().filter(|f| f.containing_oneof().is_some());
        shapes.add(&root, fields.collect());
    }
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("shapes.rs"), shapes.source()?)?;
    Ok(())
}

/// The table's entries, by the name of their message.
#[derive(Default)]
struct Shapes {
    done: BTreeMap<String, Vec<FieldDescriptor>>,
}

impl Shapes {
    fn add(&mut self, message: &MessageDescriptor, fields: Vec<FieldDescriptor>) {
        for field in &fields {
            if let Some(inside) = inside(field) {
                let fields = inside.fields().filter(holds_lists).collect();
                self.add(&inside, fields);
            }
        }
        self.done.insert(message.name().to_owned(), fields);
    }

    fn source(&self) -> Result<String, Box<dyn Error>> {
        let mut source = String::new();
        let is_root = |message: &str| ROOTS.iter().any(|root| root.ends_with(message));
        let held = self.done.iter().filter(|(message, _)| !is_root(message));
        let most = held.map(|(_, fields)| fields.len()).max().unwrap_or(0);
        // Of a message within a request or response: those are not counted in, as they have one body.
        writeln!(source, "pub(super) const FIELDS_MAX: usize = {most};")?;
        for (message, fields) in &self.done {
            let shape = upper(message);
            writeln!(source, "pub(super) static {shape}: Shape = Shape(&[")?;
            for field in fields {
                let (number, name) = (field.number(), named(field));
                // The bounds are written by hand, a constant for each list: one that is forgotten does not compile.
                let list = match list_kind(field)? {
                    Some(kind) => {
                        let bound = upper(&name);
                        format!("Some((List::{kind}, bounds::{shape}_{bound}))")
                    }
                    None => "None".to_owned(),
                };
                let inside = match inside(field) {
                    Some(inside) => format!("Some(&{})", upper(inside.name())),
                    None => "None".to_owned(),
                };
                writeln!(
                    source,
                    "Field {{ number: {number}, name: {name:?}, list: {list}, inside: {inside} }},"
                )?;
            }
            writeln!(source, "]);")?;
        }
        Ok(source)
    }
}

/// How errors name a field: a body as its message, which is how the program names it.
fn named(field: &FieldDescriptor) -> String {
    match (field.containing_oneof(), field.kind()) {
        (Some(oneof), Kind::Message(body)) if oneof.name() == "body" => body.name().to_owned(),
        _ => field.name().to_owned(),
    }
}

/// How the elements of a list are counted on the wire.
fn list_kind(field: &FieldDescriptor) -> Result<Option<&'static str>, String> {
    if !field.is_list() {
        return Ok(None);
    }
    match field.kind() {
        Kind::Message(_) | Kind::String | Kind::Bytes => Ok(Some("Elements")),
        Kind::Uint64 if field.is_packed() => Ok(Some("Packed")),
        _ => Err(format!(
            "{}: no list of this kind is counted before it is decoded: teach build.rs and walk.rs to",
            field.full_name()
        )),
    }
}

/// The message that a field holds, where that holds lists.
fn inside(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) if message.fields().any(|f| holds_lists(&f)) => Some(message),
        _ => None,
    }
}

fn holds_lists(field: &FieldDescriptor) -> bool {
    field.is_list() || inside(field).is_some()
}

/// `TargetMarks` and `target_marks` as `TARGET_MARKS`.
fn upper(name: &str) -> String {
    let mut upper = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            upper.push('_');
        }
        upper.push(c.to_ascii_uppercase());
    }
    upper
}
