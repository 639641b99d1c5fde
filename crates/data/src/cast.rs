//! Numbers of one type as numbers of another.

use dendrite_onnx::ElementType;
use half::{bf16, f16};

/// An element that the other type cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// The element's index in the source.
    pub(crate) index: usize,
}

/// Bytes of one element, for the types that data sets hold.
pub(crate) fn size_of(element_type: ElementType) -> Option<usize> {
    use ElementType::*;
    match element_type {
        Float | Double | Float16 | Bfloat16 | Uint8 | Int8 | Uint16 | Int16 | Int32 | Int64 | Uint32 | Uint64
        | Bool => element_type.bits().map(|bits| bits / 8),
        _ => None,
    }
}

/// Whether numbers of type `from` may be given where `to` is asked for: any number for a float, integers for integers.
pub(crate) fn allowed(from: ElementType, to: ElementType) -> bool {
    size_of(from).is_some() && size_of(to).is_some() && (to.is_float() || !from.is_float())
}

/// Cast the elements in `source` into `out`, which holds as many. Both are little-endian.
///
/// Floats become integers only where they are whole; integers must lie in the range of the other type; a number becomes a
/// bool by being non-zero.
pub(crate) fn cast(from: ElementType, source: &[u8], to: ElementType, out: &mut [u8]) -> Result<(), Unfit> {
    use ElementType::*;
    if from == to {
        out.copy_from_slice(source);
        return Ok(());
    }
    match from {
        Float => float(elements::<4>(source).map(|b| f64::from(f32::from_le_bytes(b))), to, out),
        Double => float(elements::<8>(source).map(f64::from_le_bytes), to, out),
        Float16 => float(elements::<2>(source).map(|b| f16::from_le_bytes(b).to_f64()), to, out),
        Bfloat16 => float(elements::<2>(source).map(|b| bf16::from_le_bytes(b).to_f64()), to, out),
        Int64 => integer(elements::<8>(source).map(|b| i64::from_le_bytes(b).into()), to, out),
        Uint64 => integer(elements::<8>(source).map(|b| u64::from_le_bytes(b).into()), to, out),
        Int32 => integer(elements::<4>(source).map(|b| i32::from_le_bytes(b).into()), to, out),
        Uint32 => integer(elements::<4>(source).map(|b| u32::from_le_bytes(b).into()), to, out),
        Int16 => integer(elements::<2>(source).map(|b| i16::from_le_bytes(b).into()), to, out),
        Uint16 => integer(elements::<2>(source).map(|b| u16::from_le_bytes(b).into()), to, out),
        Int8 => integer(source.iter().map(|b| i128::from(*b as i8)), to, out),
        Uint8 => integer(source.iter().map(|b| i128::from(*b)), to, out),
        Bool => integer(source.iter().map(|b| i128::from(*b != 0)), to, out),
        _ => Err(Unfit { index: 0 }),
    }
}

/// The first element of a float type that is NaN or infinite; `None` for other types.
pub(crate) fn first_not_finite(element_type: ElementType, bytes: &[u8]) -> Option<usize> {
    use ElementType::*;
    match element_type {
        Float => elements::<4>(bytes).position(|b| !f32::from_le_bytes(b).is_finite()),
        Double => elements::<8>(bytes).position(|b| !f64::from_le_bytes(b).is_finite()),
        Float16 => elements::<2>(bytes).position(|b| !f16::from_le_bytes(b).is_finite()),
        Bfloat16 => elements::<2>(bytes).position(|b| !bf16::from_le_bytes(b).is_finite()),
        _ => None,
    }
}

/// Turn big-endian elements of `size` bytes into little-endian ones, or back.
pub(crate) fn swap_endianness(size: usize, bytes: &mut [u8]) {
    if size > 1 {
        bytes.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
}

fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn write<const N: usize>(values: impl Iterator<Item = [u8; N]>, out: &mut [u8]) {
    for (slot, value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *slot = value;
    }
}

/// The largest magnitude below which every whole float64 is told apart from its neighbours.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn float(values: impl Iterator<Item = f64>, to: ElementType, out: &mut [u8]) -> Result<(), Unfit> {
    use ElementType::*;
    match to {
        Float => write(values.map(|v| (v as f32).to_le_bytes()), out),
        Double => write(values.map(f64::to_le_bytes), out),
        Float16 => write(values.map(|v| f16::from_f64(v).to_le_bytes()), out),
        Bfloat16 => write(values.map(|v| bf16::from_f64(v).to_le_bytes()), out),
        Bool => write(values.map(|v| [u8::from(v != 0.0)]), out),
        _ => {
            let mut index = 0;
            let mut unfit = None;
            let whole = values.map(|v| {
                if (v.fract() != 0.0 || v.abs() > EXACT) && unfit.is_none() {
                    unfit = Some(Unfit { index });
                }
                index += 1;
                v as i128
            });
            integer(whole, to, out)?;
            return unfit.map_or(Ok(()), Err);
        }
    }
    Ok(())
}

fn integer(values: impl Iterator<Item = i128>, to: ElementType, out: &mut [u8]) -> Result<(), Unfit> {
    use ElementType::*;
    match to {
        Float => write(values.map(|v| (v as f32).to_le_bytes()), out),
        Double => write(values.map(|v| (v as f64).to_le_bytes()), out),
        Float16 => write(values.map(|v| f16::from_f64(v as f64).to_le_bytes()), out),
        Bfloat16 => write(values.map(|v| bf16::from_f64(v as f64).to_le_bytes()), out),
        Bool => write(values.map(|v| [u8::from(v != 0)]), out),
        Int64 => return narrow(values, out, |v| i64::try_from(v).ok().map(i64::to_le_bytes)),
        Uint64 => return narrow(values, out, |v| u64::try_from(v).ok().map(u64::to_le_bytes)),
        Int32 => return narrow(values, out, |v| i32::try_from(v).ok().map(i32::to_le_bytes)),
        Uint32 => return narrow(values, out, |v| u32::try_from(v).ok().map(u32::to_le_bytes)),
        Int16 => return narrow(values, out, |v| i16::try_from(v).ok().map(i16::to_le_bytes)),
        Uint16 => return narrow(values, out, |v| u16::try_from(v).ok().map(u16::to_le_bytes)),
        Int8 => return narrow(values, out, |v| i8::try_from(v).ok().map(i8::to_le_bytes)),
        Uint8 => return narrow(values, out, |v| u8::try_from(v).ok().map(u8::to_le_bytes)),
        _ => return Err(Unfit { index: 0 }),
    }
    Ok(())
}

fn narrow<const N: usize>(
    values: impl Iterator<Item = i128>,
    out: &mut [u8],
    to: impl Fn(i128) -> Option<[u8; N]>,
) -> Result<(), Unfit> {
    for (index, (slot, value)) in out.as_chunks_mut::<N>().0.iter_mut().zip(values).enumerate() {
        *slot = to(value).ok_or(Unfit { index })?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn to(from: ElementType, source: &[u8], to: ElementType, count: usize) -> Result<Vec<u8>, Unfit> {
        let mut out = vec![0; count * size_of(to).unwrap()];
        cast(from, source, to, &mut out).map(|()| out)
    }

    #[test]
    fn integers_outside_the_range_are_named_by_their_index() {
        let source: Vec<u8> = [7i64, 300, -1].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(to(ElementType::Int64, &source, ElementType::Uint8, 3), Err(Unfit { index: 1 }));
        assert_eq!(to(ElementType::Int64, &source[..8], ElementType::Uint8, 1), Ok(vec![7]));
        let large = u64::MAX.to_le_bytes();
        assert_eq!(to(ElementType::Uint64, &large, ElementType::Int64, 1), Err(Unfit { index: 0 }));
    }

    #[test]
    fn halves_and_doubles_become_float32() {
        let halves: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let expected: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(to(ElementType::Float16, &halves, ElementType::Float, 2), Ok(expected.clone()));
        let brains: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(to(ElementType::Bfloat16, &brains, ElementType::Float, 2), Ok(expected.clone()));
        let doubles: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(to(ElementType::Double, &doubles, ElementType::Float, 2), Ok(expected));
    }

    #[test]
    fn whole_floats_become_integers_and_others_do_not() {
        let source: Vec<u8> = [3.0f64, 0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(to(ElementType::Double, &source[..8], ElementType::Int64, 1), Ok(3i64.to_le_bytes().to_vec()));
        assert_eq!(to(ElementType::Double, &source, ElementType::Int64, 2), Err(Unfit { index: 1 }));
    }

    #[test]
    fn floats_never_stand_in_for_integers() {
        assert!(allowed(ElementType::Int8, ElementType::Float16));
        assert!(allowed(ElementType::Int64, ElementType::Bool));
        assert!(!allowed(ElementType::Float, ElementType::Int64));
        assert!(!allowed(ElementType::String, ElementType::Float));
    }

    #[test]
    fn not_finite_elements_are_found_in_every_float_type() {
        let values: Vec<u8> = [1.0f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(first_not_finite(ElementType::Float, &values), Some(1));
        let halves: Vec<u8> = [f16::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(first_not_finite(ElementType::Float16, &halves), Some(0));
        assert_eq!(first_not_finite(ElementType::Int64, &[0; 8]), None);
    }
}
