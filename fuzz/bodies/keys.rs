//! Keys from the families that are hard for a packed store.
//!
//! Owns the families and the ranges that are mirrored. A key is made from a family and a number, so
//! that few bytes of input name it again. Must not know what is done with keys.

use etcd_keyspace::KeyRange;

use super::input::Input;

pub const FAMILIES: u8 = 10;

/// The tail of key `n` of a family; families are taken modulo their number.
pub fn tail(family: u8, n: u16) -> Vec<u8> {
    let [low, high] = n.to_be_bytes().map(usize::from);
    match family % FAMILIES {
        // All short strings over four letters, among them the empty one and zero bytes at the end.
        0 => short(n),
        1 => [b"same-8-b".as_slice(), &short(n)].concat(),
        2 => [b"head".as_slice(), &n.to_be_bytes()].concat(),
        // A common middle of more than any head, with the difference before and after it.
        3 => [&[b'A' + (n % 3) as u8], [b'm'; 200].as_slice(), &(n / 3).to_be_bytes()].concat(),
        // Each a prefix of the next, some of them long.
        4 => vec![b'p'; if n % 16 == 15 { 64 * (high + low) } else { low }],
        5 => [b"z".as_slice(), &vec![0; low % 12], &short(n / 12)].concat(),
        // Around the length that an entry holds inline.
        6 => [vec![b'L'; 40 + low % 16], vec![b'0' + (high % 10) as u8]].concat(),
        7 => {
            let id = u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("tenants/{id:016x}/deployments/production/status").into_bytes()
        }
        8 => format!("zone-{:02}/item/{n:05}", n % 16).into_bytes(),
        _ => [vec![b'x'; 900 + 40 * (low % 64)], n.to_be_bytes().to_vec()].concat(),
    }
}

fn short(n: u16) -> Vec<u8> {
    let letters = [0, b'a', b'b', 0xff];
    let digits = (0..usize::from(n % 7)).map(|at| letters[usize::from((n / 7) >> (2 * at)) % 4]);
    digits.collect()
}

/// What is mirrored; never empty.
pub fn mirrored(input: &mut Input<'_>) -> KeyRange {
    match input.below(6) {
        0 | 1 => KeyRange::prefix("/k/"),
        2 | 3 => KeyRange::all(),
        4 => KeyRange::bytes("a", "q"),
        _ => KeyRange::from("head"),
    }
}

/// A key of the range; tails that would lie outside are moved below its start.
pub fn key_in(range: &KeyRange, family: u8, n: u16) -> Vec<u8> {
    let tail = tail(family, n);
    if range.contains(&tail) { tail } else { [range.start(), &tail].concat() }
}

pub fn any_key(input: &mut Input<'_>, range: &KeyRange) -> Vec<u8> {
    let family = input.byte();
    // Few numbers, so that keys meet.
    let n = if family >= 200 { input.short() } else { u16::from(input.byte() % 48) };
    key_in(range, family, n)
}

/// Any bytes: a key of the range, a neighbour of one, or bytes of the input.
pub fn any_probe(input: &mut Input<'_>, range: &KeyRange) -> Vec<u8> {
    let mut key = any_key(input, range);
    match input.below(6) {
        0 => key.push(0),
        1 => drop(key.pop()),
        2 => key.extend_from_slice(b"\xff\xff"),
        3 => {
            let len = input.below(9);
            key = input.bytes(len).to_vec();
        }
        4 => {
            if let Some(last) = key.last_mut() {
                *last = last.wrapping_add(1);
            }
        }
        _ => {}
    }
    key
}
