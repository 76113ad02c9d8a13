//! Which call fails, and how, as one line of text: a failing test prints the injector, and the line replays it.
//!
//! ```text
//! injector  := rule { ';' rule }                    the first rule that fires decides
//! rule      := condition { '&' condition } ':' fault
//! condition := 'on(' call ')'      list create open read write sync rename remove syncdir, any, change
//!            | 'path(' pattern ')' the file's name; '*' stands for any characters
//!            | 'nth(' n ')'        the n-th call, from 1, that meets the other conditions: once
//!            | 'after(' n ')'      each such call after the n-th
//! fault     := 'crash'   the power goes: the call's effect may survive or not, every later call fails
//!            | 'eio'     an I/O error; a write changes nothing, a failed sync makes nothing durable
//!            | 'enospc'  no room
//!            | 'short'   a write does its first half and fails; as eio for the rest
//!            | 'lost'    the device lies: a write or a sync says it is done and does nothing
//!            | 'misdirect' a write goes to another block of its file, and says it is done
//!            | 'stall'   the call hangs until the injector is changed, and goes on then
//! ```
//!
//! `lost` and `misdirect` change nothing of calls that they do not name.
//!
//! `change` is any call that changes something. A rule has at most one condition of a kind, and `nth` and `after`
//! are one kind.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A call on the storage or one of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoOp {
    List,
    Create,
    Open,
    Read,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

impl IoOp {
    pub(super) const fn changes(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::Read)
    }
}

/// Which calls a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpClass {
    /// Every call.
    Any,
    /// Every call that changes something.
    Change,
    /// `Storage::list`.
    List,
    /// `Storage::create`.
    Create,
    /// `Storage::open`.
    Open,
    /// `StorageFile::read_at`.
    Read,
    /// `StorageFile::write_at`.
    Write,
    /// `StorageFile::sync`.
    Sync,
    /// `Storage::rename`.
    Rename,
    /// `Storage::remove`.
    Remove,
    /// `Storage::sync_dir`.
    SyncDir,
}

impl OpClass {
    const NAMES: [(Self, &'static str); 11] = [
        (Self::Any, "any"),
        (Self::Change, "change"),
        (Self::List, "list"),
        (Self::Create, "create"),
        (Self::Open, "open"),
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Sync, "sync"),
        (Self::Rename, "rename"),
        (Self::Remove, "remove"),
        (Self::SyncDir, "syncdir"),
    ];

    fn covers(self, op: IoOp) -> bool {
        match self {
            Self::Any => true,
            Self::Change => op.changes(),
            Self::List => op == IoOp::List,
            Self::Create => op == IoOp::Create,
            Self::Open => op == IoOp::Open,
            Self::Read => op == IoOp::Read,
            Self::Write => op == IoOp::Write,
            Self::Sync => op == IoOp::Sync,
            Self::Rename => op == IoOp::Rename,
            Self::Remove => op == IoOp::Remove,
            Self::SyncDir => op == IoOp::SyncDir,
        }
    }
}

/// When, among the calls a rule is about, it fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// At each.
    #[default]
    Always,
    /// At the n-th, from 1, once.
    Nth(u64),
    /// At each after the n-th.
    After(u64),
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The power goes.
    Crash,
    /// An I/O error.
    Eio,
    /// No room.
    Enospc,
    /// Half of a write, then an error.
    Short,
    /// Success without effect, of a write or a sync.
    Lost,
    /// A write to another block than the one it was meant for, and success.
    Misdirect,
    /// Nothing, until the injector is changed.
    Stall,
}

impl Fault {
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Crash, "crash"),
        (Self::Eio, "eio"),
        (Self::Enospc, "enospc"),
        (Self::Short, "short"),
        (Self::Lost, "lost"),
        (Self::Misdirect, "misdirect"),
        (Self::Stall, "stall"),
    ];

    /// Whether the call itself succeeds.
    pub(super) const fn is_silent(self) -> bool {
        matches!(self, Self::Lost | Self::Misdirect | Self::Stall)
    }
}

/// One rule: which calls, when, and the fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which calls.
    pub on: OpClass,
    /// Which files, as a pattern; `None` is all, and calls about no file too.
    pub path: Option<String>,
    /// Which of them.
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

/// What fails, as data: printable, and parsed from the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injector {
    rules: Vec<Rule>,
}

impl Injector {
    /// An injector of these rules, of which the first that fires decides.
    #[must_use]
    pub const fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The power goes at the n-th call, from 1, that changes something.
    #[must_use]
    pub fn crash_at_change(n: u64) -> Self {
        Self::new(vec![Rule {
            on: OpClass::Change,
            path: None,
            when: When::Nth(n),
            fault: Fault::Crash,
        }])
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// An injector at work: it counts.
#[derive(Debug)]
pub(super) struct ActiveInjector {
    /// Each rule, and how many calls have met its other conditions.
    rules: Vec<(Rule, u64)>,
}

impl ActiveInjector {
    pub(super) fn new(injector: Injector) -> Self {
        Self {
            rules: injector.rules.into_iter().map(|rule| (rule, 0)).collect(),
        }
    }

    /// The fault of a call. Every rule counts it, whichever decides.
    pub(super) fn decide(&mut self, op: IoOp, names: &[&str]) -> Option<Fault> {
        let mut decided = None;
        for (rule, seen) in &mut self.rules {
            let path_fits = match &rule.path {
                None => true,
                Some(pattern) => names
                    .iter()
                    .any(|name| glob(pattern.as_bytes(), name.as_bytes())),
            };
            if !rule.on.covers(op) || !path_fits {
                continue;
            }
            *seen += 1;
            let fires = match rule.when {
                When::Always => true,
                When::Nth(n) => *seen == n,
                When::After(n) => *seen > n,
            };
            if fires {
                decided = decided.or(Some(rule.fault));
            }
        }
        decided
    }
}

/// Whether a name fits a pattern in which '*' stands for any characters.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| glob(rest, &name[skip..])),
        Some((c, rest)) => name
            .split_first()
            .is_some_and(|(n, name)| n == c && glob(rest, name)),
    }
}

impl fmt::Display for Injector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, rule) in self.rules.iter().enumerate() {
            write!(f, "{}{rule}", if i == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut conditions = Vec::new();
        let any_would_be_needed = self.path.is_none() && self.when == When::Always;
        if self.on != OpClass::Any || any_would_be_needed {
            conditions.push(format!("on({})", name_of(&OpClass::NAMES, self.on)));
        }
        conditions.extend(self.path.as_ref().map(|path| format!("path({path})")));
        match self.when {
            When::Always => {}
            When::Nth(n) => conditions.push(format!("nth({n})")),
            When::After(n) => conditions.push(format!("after({n})")),
        }
        write!(
            f,
            "{}:{}",
            conditions.join("&"),
            name_of(&Fault::NAMES, self.fault)
        )
    }
}

fn name_of<T: PartialEq>(names: &[(T, &'static str)], value: T) -> &'static str {
    let named = names.iter().find(|(named, _)| *named == value);
    named.map(|(_, name)| *name).expect("every value is named")
}

fn value_of<T: Copy>(names: &[(T, &'static str)], name: &str) -> Option<T> {
    names
        .iter()
        .find(|(_, n)| *n == name)
        .map(|(value, _)| *value)
}

/// A text that is no injector.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{at:?} in an injector: expected {expected}, as in \"on(sync)&path(*.seg)&nth(2):eio\"")]
pub struct ParseInjectorError {
    at: String,
    expected: &'static str,
}

impl ParseInjectorError {
    fn new(at: &str, expected: &'static str) -> Self {
        Self {
            at: at.to_owned(),
            expected,
        }
    }
}

impl FromStr for Injector {
    type Err = ParseInjectorError;

    fn from_str(text: &str) -> Result<Self, ParseInjectorError> {
        let rules = text.split(';').map(|rule| rule.trim().parse());
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

impl FromStr for Rule {
    type Err = ParseInjectorError;

    fn from_str(text: &str) -> Result<Self, ParseInjectorError> {
        let (conditions, fault) = text
            .rsplit_once(':')
            .ok_or_else(|| ParseInjectorError::new(text, "conditions ':' fault"))?;
        let fault = value_of(&Fault::NAMES, fault.trim()).ok_or_else(|| {
            ParseInjectorError::new(fault, "crash, eio, enospc, short, lost, misdirect or stall")
        })?;
        let (mut on, mut path, mut when) = (None, None, None);
        for condition in conditions.split('&').map(str::trim) {
            let expected = || {
                ParseInjectorError::new(
                    condition,
                    "on(..), path(..), nth(n) or after(n), each once",
                )
            };
            let (kind, argument) = condition
                .strip_suffix(')')
                .and_then(|condition| condition.split_once('('))
                .ok_or_else(expected)?;
            let number = || argument.parse::<u64>().map_err(|_| expected());
            let again = match kind {
                "on" => on
                    .replace(value_of(&OpClass::NAMES, argument).ok_or_else(expected)?)
                    .is_some(),
                "path" if !argument.is_empty() && !argument.contains(['(', ')']) => {
                    path.replace(argument.to_owned()).is_some()
                }
                "nth" => when.replace(When::Nth(number()?)).is_some(),
                "after" => when.replace(When::After(number()?)).is_some(),
                _ => return Err(expected()),
            };
            if again {
                return Err(expected());
            }
        }
        Ok(Self {
            on: on.unwrap_or(OpClass::Any),
            path,
            when: when.unwrap_or_default(),
            fault,
        })
    }
}
