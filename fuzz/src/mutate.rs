//! From valid inputs to damaged ones that are still near enough to a format to reach its depths.

use fastrand::Rng;

use crate::targets::Format;
use crate::{Target, seeds};

/// The valid inputs of a target and how to damage them.
pub(crate) struct Mutator {
    format: Format,
    seeds: Vec<Vec<u8>>,
    /// For archives: what is put into them.
    members: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(target: &Target) -> Mutator {
        let members = if matches!(target.format, Format::Npz) { seeds::of(Format::Npy) } else { Vec::new() };
        Mutator { format: target.format, seeds: seeds::of(target.format), members }
    }

    /// The input of one iteration: now and then a valid one or noise, mostly a valid one damaged a few times.
    pub(crate) fn input(&self, seed: u64, iteration: u64) -> Vec<u8> {
        // Both are spread over all bits first: neighbouring seeds must not give neighbouring streams.
        let mut rng = Rng::with_seed(seed);
        let mut rng = Rng::with_seed(rng.u64(..) ^ Rng::with_seed(iteration).u64(..));
        let mut input = self.seeds[rng.usize(..self.seeds.len())].clone();
        match rng.u32(..16) {
            0 => return input,
            1 => return (0..rng.usize(..200)).map(|_| rng.u8(..)).collect(),
            _ => {}
        }
        // Damage the inside of an archive or the header of a file as such, so that checksums and lengths around it hold.
        let whole = rng.u32(..3) == 0;
        match self.format {
            Format::Npz if !whole => {
                let mut inside = choice(&mut rng, &self.members).clone();
                self.damage(&mut inside, &mut rng);
                return seeds::npz(&[("x.npy", &inside)], rng.bool());
            }
            Format::Chain | Format::Model if !whole => {
                let length = u64::from_le_bytes(input[..8].try_into().expect("eight bytes")) as usize;
                let mut header = input[8..8 + length].to_vec();
                self.damage(&mut header, &mut rng);
                let data = input.split_off(8 + length);
                input = (header.len() as u64).to_le_bytes().to_vec();
                input.extend(header);
                input.extend(data);
            }
            Format::Npy if !whole => {
                // Version 1: ten bytes, then the header. Keep its length; damage the text.
                let length = usize::from(u16::from_le_bytes([input[8], input[9]]));
                let mut header = input[10..10 + length].to_vec();
                self.damage(&mut header, &mut rng);
                header.resize(length, b' ');
                input[10..10 + length].copy_from_slice(&header);
            }
            _ => self.damage(&mut input, &mut rng),
        }
        input
    }

    fn damage(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        // Mostly once: more seldom leaves anything that is accepted.
        for _ in 0..*choice(rng, &[1, 1, 1, 2, 3]) {
            self.damage_once(input, rng);
        }
    }

    fn damage_once(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        if input.is_empty() {
            input.push(rng.u8(..));
        }
        let at = rng.usize(..input.len());
        let some = 1 + rng.usize(..16);
        let end = (at + some).min(input.len());
        match rng.u32(..10) {
            0 => input[at] ^= 1 << rng.u32(..8),
            1 => input[at] = *choice(rng, b"\x00\x01\x7f\x80\xff 0129,.:()[]{}'\"-\\n<>"),
            2 => input.truncate(at),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                let to = rng.usize(..=input.len());
                input.splice(to..to, copy);
            }
            5 => {
                let noise: Vec<u8> = (0..some).map(|_| rng.u8(..)).collect();
                input.splice(at..at, noise);
            }
            6 => number(input, at, rng),
            7 => {
                let width = *choice(rng, &[2, 4, 8]);
                let value = *choice(rng, &[0, 1, 0x7f, 0xffff, 1 << 31, u64::from(u32::MAX), 1 << 62, u64::MAX]);
                let bytes = value.wrapping_add(rng.u64(..3)).to_le_bytes();
                input.iter_mut().skip(at).zip(&bytes[..width]).for_each(|(x, y)| *x = *y);
            }
            8 => {
                let other = choice(rng, &self.seeds).clone();
                let from = rng.usize(..=other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => {
                let words: &[&[u8]] = self.format.words();
                let word = *choice(rng, words);
                // Over another word of the format if there is one, so that the grammar stays whole.
                let old = *choice(rng, words);
                match input.windows(old.len()).position(|w| w == old) {
                    Some(found) => drop(input.splice(found..found + old.len(), word.iter().copied())),
                    None => drop(input.splice(at..at, word.iter().copied())),
                }
            }
        }
    }
}

fn choice<'a, T>(rng: &mut Rng, list: &'a [T]) -> &'a T {
    &list[rng.usize(..list.len())]
}

/// Replaces the first decimal number at or after `at` by one that is often at a limit.
fn number(input: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(from) = (at..input.len()).find(|&k| input[k].is_ascii_digit()) else { return };
    let to = (from..input.len()).find(|&k| !input[k].is_ascii_digit()).unwrap_or(input.len());
    let limits = [
        "0",
        "1",
        "2",
        "3",
        "4",
        "6",
        "8",
        "12",
        "16",
        "64",
        "-1",
        "00",
        "65536",
        "4294967295",
        "4294967296",
        "1e3",
        "0.5",
        "2147483648",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
    ];
    input.splice(from..to, choice(rng, &limits).bytes());
}
