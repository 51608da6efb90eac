//! What every test run does of fuzzing: replays a target's corpus, and so many mutations of it, by a
//! seed. Knows no target.

use std::fs;
use std::path::Path;

/// The longest input that a mutation makes.
const INPUT_BYTES_MAX: usize = 16 * 1024;
/// The most changes between an input of the corpus and one that is tried.
const CHANGES_MAX: usize = 6;

/// Runs a target over its corpus and over `mutations` of it. What it finds, it panics at, and the input
/// is printed for a test of its own.
pub(crate) fn replay(name: &str, mutations: usize, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut paths: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!corpus.is_empty(), "no corpus in {}", folder.display());
    for input in &corpus {
        run(&target, input);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..mutations {
        run(&target, &random.mutated(&corpus));
    }
}

fn run(target: &impl Fn(&[u8]), input: &[u8]) {
    struct Told<'a>(&'a [u8]);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                println!("the input: b\"{}\"", self.0.escape_ascii());
            }
        }
    }
    let told = Told(input);
    target(told.0);
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }

    fn piece<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.below(bytes.len() + 1);
        let end = start + self.below((bytes.len() - start).min(64) + 1);
        &bytes[start..end]
    }

    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        const ODD: &[u8] = b"\0\n\r\t \"#%&'*+,-./0:;=?@[\\]{|}~\x7f\x80\xc0\xff";
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            let at = self.below(input.len() + 1);
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 if at < input.len() => input[at] = ODD[self.below(ODD.len())],
                2 => input.insert(at, ODD[self.below(ODD.len())]),
                3 => {
                    let end = at + self.below((input.len() - at).min(32) + 1);
                    drop(input.drain(at..end));
                }
                4 => {
                    let other = &corpus[self.below(corpus.len())];
                    let piece = self.piece(other).to_vec();
                    drop(input.splice(at..at, piece));
                }
                5 => {
                    let piece = self.piece(&input).to_vec();
                    drop(input.splice(at..at, piece));
                }
                _ => input.truncate(at),
            }
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }
}
