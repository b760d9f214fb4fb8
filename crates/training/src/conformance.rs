//! The functions of the specification against `vectors/training_functions.json`, on every path.

use serde_json::Value;

use crate::init::philox;
use crate::kernels::dispatch::kernel;
use crate::kernels::functions::{exp, ln, sigmoid};
use crate::kernels::lanes::sum_long;
use crate::model::Rope;
use crate::path::Path;

kernel! {
    exps<F>(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = exp::<F>(*x));
    }
}

kernel! {
    lns<F>(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = ln::<F>(*x));
    }
}

kernel! {
    sigmoids<F>(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x = sigmoid::<F>(*x));
    }
}

kernel! {
    fmas<F>(a: &[f32], b: &[f32], c: &mut [f32]) {
        for ((a, b), c) in a.iter().zip(b).zip(c) {
            *c = F::fma(*a, *b, *c);
        }
    }
}

fn vectors() -> Value {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../vectors/training_functions.json"
    );
    let text = std::fs::read_to_string(file).expect("the vectors are there");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn number(value: &Value) -> f32 {
    let word = value.as_str().expect("a number is written as its bits");
    f32::from_bits(u32::from_str_radix(word, 16).expect("bits are hexadecimal"))
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(number)
        .collect()
}

/// Column `index` of a list of lists.
fn column(list: &Value, index: usize) -> Vec<f32> {
    let rows = list.as_array().expect("a list");
    rows.iter().map(|row| number(&row[index])).collect()
}

fn assert_same(what: &str, path: Path, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let name = path.name();
        assert_eq!(
            a.to_bits(),
            b.to_bits(),
            "{what} {index} on {name}: {a:e}, not {b:e}"
        );
    }
}

/// Numbers of many sizes, as `reference/functions.py` draws them.
fn noise(count: usize) -> Vec<f32> {
    let words = (0..count.div_ceil(4) as u32).flat_map(|block| philox([block, 0, 0, 1], [5, 6]));
    words
        .map(|word| f32::from_bits((word & 0x807f_ffff) | ((118 + (word >> 23) % 12) << 23)))
        .take(count)
        .collect()
}

type Unary = fn(Path, &mut [f32]);

#[test]
fn functions_have_the_bits_of_the_specification() {
    let vectors = vectors();
    let unary: [(&str, Unary); 3] = [("exp", exps), ("ln", lns), ("sigmoid", sigmoids)];
    for path in Path::available() {
        for (name, function) in unary {
            let mut values = column(&vectors[name], 0);
            function(path, &mut values);
            assert_same(name, path, &values, &column(&vectors[name], 1));
        }
        let [a, b, mut c, wanted] = [0, 1, 2, 3].map(|index| column(&vectors["fma"], index));
        fmas(path, &a, &b, &mut c);
        assert_same("fma", path, &c, &wanted);
    }
}

#[test]
fn sums_have_the_bits_of_the_specification() {
    for case in vectors()["longSums"].as_array().expect("a list") {
        let count = case["noise"].as_u64().expect("a count") as usize;
        let values = noise(count);
        assert_eq!(values[0], number(&case["first"]));
        for path in Path::available() {
            let sum = sum_long(path, &values);
            assert_same("sum", path, &[sum], &[number(&case["sum"])]);
        }
    }
}

#[test]
fn words_and_turns_have_the_bits_of_the_specification() {
    let vectors = vectors();
    let words = |value: &Value| -> Vec<u32> {
        let list = value.as_array().expect("a list").iter();
        list.map(|word| word.as_u64().expect("a word") as u32)
            .collect()
    };
    for case in vectors["philox"].as_array().expect("a list") {
        let counter = words(&case["counter"]).try_into().expect("four words");
        let key = words(&case["key"]).try_into().expect("two words");
        assert_eq!(philox(counter, key).to_vec(), words(&case["words"]));
    }
    for case in vectors["rope"].as_array().expect("a list") {
        let size = |name: &str| case[name].as_u64().expect("a size") as usize;
        let theta = case["theta"].as_f64().expect("a number") as f32;
        let rope = Rope::new(size("position") + 1, size("head"), theta);
        let (cosines, sines) = rope.at(size("position"));
        let path = Path::fastest();
        assert_same("cosine", path, cosines, &numbers(&case["cosines"]));
        assert_same("sine", path, sines, &numbers(&case["sines"]));
    }
}
