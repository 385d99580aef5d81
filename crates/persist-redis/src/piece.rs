use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::change;
use crate::engine::{Body, Call};
use crate::keyspace::{Keyspace, Tag};
use crate::link::Live;

/// The most calls that go out in one piece.
const MOST_CALLS: usize = 512;

/// The most bytes that go out in one piece, a single call aside.
const MOST_BYTES: usize = 4 << 20;

/// The most changes that one run of the script makes: nobody else is served meanwhile.
const MOST_CHANGES: usize = 64;

/// The most bytes of values in one run of the script, a single change aside.
const MOST_CHANGED: usize = 1 << 20;

/// A call on its way, and when it must end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    pub(crate) call: &'a Call,
    pub(crate) deadline: Instant,
}

impl Order<'_> {
    pub(crate) fn is_change(&self) -> bool {
        matches!(self.call.body, Body::Change(_))
    }
}

/// How many of these calls go out together.
pub(crate) fn fitting<'a>(calls: impl Iterator<Item = &'a Call>) -> usize {
    let mut bytes = 0;
    let fits = |call: &&Call| {
        bytes += call.bytes;
        bytes <= MOST_BYTES
    };
    calls.take(MOST_CALLS).take_while(fits).count().max(1)
}

/// Calls that go out together, as commands: each read is one, and changes of one tag are one, because the server pays for
/// beginning a script about as much as for a change.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) commands: Vec<Cmd>,
    /// By command: the places of the calls that it stands for.
    pub(crate) places: Vec<Vec<usize>>,
}

impl Piece {
    /// The commands of some calls over a connection.
    pub(crate) fn new(orders: &[Order<'_>], keyspace: &Keyspace, client: &str, live: &Live) -> Self {
        let places = commands_of(orders);
        let command = |places: &Vec<usize>| match &orders[places[0]].call.body {
            Body::Read(cmd) => cmd.clone(),
            Body::Change(_) => {
                let changes = places.iter().filter_map(|place| match &orders[*place].call.body {
                    Body::Change(change) => Some((&**change, live.server_time(orders[*place].deadline))),
                    Body::Read(_) => None,
                });
                change::command(&changes.collect::<Vec<_>>(), keyspace, client, live.era)
            }
        };
        Self { commands: places.iter().map(command).collect(), places }
    }
}

/// The answer to each call from the answers to the commands, each of which stands for the calls at some places.
pub(crate) fn deal(places: &[Vec<usize>], orders: &[Order<'_>], answers: Vec<Value>) -> Vec<Value> {
    let mut dealt = vec![Value::Nil; orders.len()];
    for (places, answer) in places.iter().zip(answers) {
        if orders[places[0]].is_change() {
            for (place, answer) in places.iter().zip(change::answers(answer, places.len())) {
                dealt[*place] = answer;
            }
        } else {
            dealt[places[0]] = answer;
        }
    }
    dealt
}

/// Which calls make up one command, by their places: changes of one tag stay in their order.
fn commands_of(orders: &[Order<'_>]) -> Vec<Vec<usize>> {
    /// The last command with changes of a tag, and how many bytes it has.
    struct Last {
        tag: Tag,
        command: usize,
        bytes: usize,
    }
    let mut commands: Vec<Vec<usize>> = Vec::with_capacity(orders.len().min(MOST_CALLS));
    let mut lasts: Vec<Last> = Vec::new();
    for (place, order) in orders.iter().enumerate() {
        if !order.is_change() {
            commands.push(vec![place]);
            continue;
        }
        let Call { tag, bytes, .. } = *order.call;
        let last = lasts.iter_mut().find(|last| last.tag == tag);
        if let Some(last) = last {
            if commands[last.command].len() < MOST_CHANGES && last.bytes + bytes <= MOST_CHANGED {
                commands[last.command].push(place);
                last.bytes += bytes;
            } else {
                *last = Last { tag, command: commands.len(), bytes };
                commands.push(vec![place]);
            }
        } else {
            lasts.push(Last { tag, command: commands.len(), bytes });
            commands.push(vec![place]);
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use persist_core::{Descriptor, Key, StoreOptions, Value as Stored};

    use super::*;
    use crate::RedisConfig;
    use crate::change::{Change, Step};

    fn change(tag: u16, size: usize) -> Call {
        let (descriptor, config) = (Descriptor::new("s", "redis"), RedisConfig::default());
        let value = Stored::bytes(vec![7; size]);
        let step = Step::put(&descriptor, &config, &Key::new("k").unwrap(), &value, StoreOptions::new());
        Arc::new(Change::new(Tag(tag), descriptor.now(), "me.1".into(), vec![step])).call()
    }

    fn read(tag: u16) -> Call {
        Call { tag: Tag(tag), bytes: 0, body: Body::Read(redis::cmd("HGET")) }
    }

    fn orders(calls: &[Call]) -> Vec<Order<'_>> {
        calls.iter().map(|call| Order { call, deadline: Instant::now() }).collect()
    }

    fn line(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn changes_of_a_tag_make_one_command_and_get_a_line_each() {
        let calls = [change(0, 1), read(0), change(1, 1), change(0, 1), read(1)];
        let orders = orders(&calls);
        let places = commands_of(&orders);
        assert_eq!(places, [vec![0, 3], vec![1], vec![2], vec![4]]);
        let answers = vec![line("a\nb"), Value::Int(1), line("c"), Value::Nil];
        let dealt = deal(&places, &orders, answers);
        assert_eq!(dealt, [line("a"), Value::Int(1), line("c"), line("b"), Value::Nil]);
        // A missing line leaves open which one it is.
        let dealt = deal(&places, &orders, vec![line("a"), Value::Nil, line("c"), Value::Nil]);
        assert_eq!(dealt, [Value::Nil, Value::Nil, line("c"), Value::Nil, Value::Nil]);
    }

    #[test]
    fn nobody_is_held_up_by_a_long_script() {
        let lengths = |calls: &[Call]| commands_of(&orders(calls)).iter().map(Vec::len).collect::<Vec<_>>();
        let many: Vec<_> = (0..MOST_CHANGES + 1).map(|_| change(0, 1)).collect();
        assert_eq!(lengths(&many), [MOST_CHANGES, 1]);
        let large: Vec<_> = (0..3).map(|_| change(0, MOST_CHANGED / 2)).collect();
        assert_eq!(lengths(&large), [2, 1]);
        assert_eq!(lengths(&[change(0, 2 * MOST_CHANGED), change(0, 1)]), [1, 1]);
    }

    #[test]
    fn a_piece_has_a_bearable_size() {
        let large: Vec<_> = (0..3).map(|_| change(0, MOST_BYTES / 2)).collect();
        assert_eq!(fitting(large.iter()), 2);
        assert_eq!(fitting([change(0, 2 * MOST_BYTES)].iter()), 1);
        let many: Vec<_> = (0..MOST_CALLS + 1).map(|_| read(0)).collect();
        assert_eq!(fitting(many.iter()), MOST_CALLS);
    }
}
