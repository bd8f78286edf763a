use super::*;
use crate::checkpoint::Header;
use std::{fs, path::Path};

/// Random blocks, and the numbers that gguf-py's `dequantize` makes of them: `scripts/make_gguf_vectors.py` writes the file.
fn vectors() -> impl Iterator<Item = (DType, HostTensor, Vec<f32>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf_blocks.safetensors");
    let file = fs::read(&path).unwrap();
    let header = Header::parse(&file, &path).unwrap();
    let types = header.tensors.keys().filter_map(|name| name.strip_suffix(".bytes")).map(String::from);
    let types: Vec<String> = types.collect();
    types.into_iter().map(move |name| {
        let part = |kind: &str| file[header.tensors[&format!("{name}.{kind}")].range.clone()].to_vec();
        let dtype: DType = name.parse().unwrap();
        let numbers = HostTensor::from_bytes(DType::F32, &[512], part("numbers")).to_f32();
        (dtype, HostTensor::from_bytes(dtype, &[2, 256], part("bytes")), numbers)
    })
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

fn packed(tensor: HostTensor) -> Arc<dyn Packed> {
    match matrix(tensor) {
        Matrix::Packed(packed) => packed,
        Matrix::Dense(tensor) => panic!("{tensor:?} is not packed"),
    }
}

#[test]
fn numbers_equal_gguf_pys_to_the_bit() {
    let mut types = 0;
    for (dtype, tensor, want) in vectors() {
        let packed = packed(tensor);
        assert_eq!((packed.shape(), packed.label()), ([2, 256], dtype.to_string()));
        let mut row = [0.0; 256];
        for output in 0..2 {
            packed.row(output, 0..256, &mut row);
            // A sum may be -0 here and 0 there.
            let zero = |numbers: &[f32]| bits(&numbers.iter().map(|number| number + 0.0).collect::<Vec<_>>());
            assert_eq!(zero(&row), zero(&want[256 * output..][..256]), "{dtype}");
        }
        types += 1;
    }
    assert_eq!(types, 12);
}

/// A rank's columns may begin and end inside a block.
#[test]
fn a_part_of_a_row_is_that_part() {
    for (dtype, tensor, _) in vectors() {
        let packed = packed(tensor);
        let mut whole = [0.0; 256];
        packed.row(1, 0..256, &mut whole);
        for inputs in [0..1, 31..33, 5..200, 32..64, 128..256, 255..256, 7..7] {
            let mut part = vec![f32::NAN; inputs.len()];
            packed.row(1, inputs.clone(), &mut part);
            assert_eq!(bits(&part), bits(&whole[inputs]), "{dtype}");
        }
    }
}

/// Two heads of width 4: rows 0, 1, 2, 3 of a head lie in the order 0, 2, 1, 3.
#[test]
fn rows_in_pairs_come_into_order() {
    let stored: Vec<usize> = (0..8).map(|row| stored_row(row, 2)).collect();
    assert_eq!(stored, [0, 2, 1, 3, 4, 6, 5, 7]);
    let numbers: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let dense =
        |shape: &[usize]| match matrix(HostTensor::from_f32(shape, &numbers[..shape.iter().product()])) {
            Matrix::Dense(tensor) => (tensor.shape.clone(), tensor.to_f32()),
            Matrix::Packed(_) => panic!("it is packed"),
        };
    assert_eq!(dense(&[2, 2, 2]), (vec![8], [0, 2, 1, 3, 4, 6, 5, 7].map(|i| i as f32).to_vec()));
    assert_eq!(dense(&[1, 2, 2, 2]), (vec![4, 2], [0, 1, 4, 5, 2, 3, 6, 7].map(|i| i as f32).to_vec()));
    assert_eq!(dense(&[8, 2]), (vec![8, 2], numbers.clone()));
}

#[test]
fn blocks_in_pairs_come_into_order() {
    let (_, tensor, _) = vectors().find(|(dtype, ..)| *dtype == DType::Q8_0).unwrap();
    let rows = |shape: &[usize]| -> Vec<Vec<u32>> {
        let packed = packed(HostTensor { shape: shape.to_vec(), ..tensor.clone() });
        let [outputs, inputs] = packed.shape();
        let mut row = vec![0.0; inputs];
        (0..outputs)
            .map(|output| {
                packed.row(output, 0..inputs, &mut row);
                bits(&row)
            })
            .collect()
    };
    let (plain, pairs) = (rows(&[8, 64]), rows(&[2, 2, 2, 64]));
    for (row, stored) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(pairs[row], plain[stored], "row {row}");
    }
}

/// A norm or a bias in a block type is a vector of f32.
#[test]
fn a_vector_of_blocks_is_dense() {
    for (dtype, tensor, want) in vectors() {
        match matrix(HostTensor { shape: vec![512], ..tensor }) {
            Matrix::Dense(tensor) => {
                assert_eq!((tensor.dtype, tensor.to_f32() == want), (DType::F32, true), "{dtype}")
            }
            Matrix::Packed(_) => panic!("{dtype}"),
        }
    }
}
