//! Parquet tables of flat columns: numbers, and a label that is text, a whole number or a truth value.
//!
//! Only the plain column readers of the `parquet` crate are used, without Arrow. It panics on some damaged
//! files, so it runs behind [`std::panic::catch_unwind`], and allocates whatever a file tells it to, so
//! [`super::thrift`] looks first. Of the compressions only snappy is built in: the crate unpacks its gzip
//! pages without a limit.

use super::{Columns, MAX_FILE, Table, check_size, thrift};
use crate::MlError;
use bytes::Bytes;
use parquet::basic::ConvertedType;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most row groups of a file (K3).
const MAX_GROUPS: usize = 1 << 14;

/// Reads the wanted columns of a table.
///
/// # Errors
/// If the file is damaged or compressed in a way this build does not read, a column is missing, nested or of
/// a type that is no number, or a cell is missing; says where.
pub fn read(bytes: Vec<u8>, wanted: &Columns) -> Result<Table, MlError> {
    catch_unwind(AssertUnwindSafe(|| tables(Bytes::from(bytes), wanted)))
        .unwrap_or_else(|_| Err(MlError::Data("the Parquet file is damaged".into())))
}

fn damaged(e: ParquetError) -> MlError {
    match e.to_string() {
        text if text.contains("Disabled feature") => {
            MlError::Data(format!("{text}; write the file with snappy or no compression"))
        }
        text => MlError::Data(format!("Parquet: {text}")),
    }
}

fn tables(bytes: Bytes, wanted: &Columns) -> Result<Table, MlError> {
    if !thrift::footer_is_sane(&bytes) {
        return Err(MlError::Data("not a Parquet file, or it is damaged".into()));
    }
    let file = SerializedFileReader::new(bytes.clone()).map_err(damaged)?;
    let metadata = file.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let there: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
    let (label, features) = wanted.find(&there)?;
    if metadata.num_row_groups() > MAX_GROUPS {
        return Err(MlError::Data(format!("more than {MAX_GROUPS} row groups")));
    }
    let names = features.iter().filter_map(|f| there.get(*f)).cloned().collect();
    let mut table = Table { features: names, values: Vec::new(), labels: Vec::new() };
    for g in 0..metadata.num_row_groups() {
        let group = file.get_row_group(g).map_err(damaged)?;
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(usize::MAX);
        let first = table.labels.len();
        check_size(first.saturating_add(rows), features.len())?;
        table.labels.extend(cells(&bytes, group.as_ref(), label, rows, first, as_label)?);
        let start = table.values.len();
        table.values.resize(start + rows * features.len(), 0.0);
        for (f, column) in features.iter().enumerate() {
            let values = cells(&bytes, group.as_ref(), *column, rows, first, as_number)?;
            let places = table.values.iter_mut().skip(start + f).step_by(features.len());
            places.zip(values).for_each(|(place, v)| *place = v);
        }
    }
    if table.labels.is_empty() {
        return Err(MlError::Data("the Parquet file has no rows".into()));
    }
    Ok(table)
}

/// A value of a flat column.
enum Cell<'a> {
    Whole(i128),
    Real(f64),
    Truth(bool),
    Text(&'a [u8]),
}

fn as_number(cell: Cell<'_>) -> Result<f64, &'static str> {
    #[allow(clippy::cast_precision_loss)]
    let number = match cell {
        Cell::Whole(v) => v as f64,
        Cell::Real(v) => v,
        Cell::Truth(v) => f64::from(u8::from(v)),
        Cell::Text(_) => return Err("text is no number; leave the column out by naming the others in `features`"),
    };
    if number.is_finite() { Ok(number) } else { Err("NaN or infinity") }
}

fn as_label(cell: Cell<'_>) -> Result<String, &'static str> {
    match cell {
        Cell::Whole(v) => Ok(v.to_string()),
        Cell::Real(v) if v.is_finite() && v.fract() == 0.0 => Ok(v.to_string()),
        Cell::Real(_) => Err("a label must be text or a whole number"),
        Cell::Truth(v) => Ok(v.to_string()),
        Cell::Text(v) => Ok(std::str::from_utf8(v).map_err(|_| "the label is no UTF-8")?.trim().to_string()),
    }
}

/// One column of a row group.
fn cells<T>(
    file: &[u8],
    group: &dyn RowGroupReader,
    column: usize,
    rows: usize,
    first: usize,
    to: impl Fn(Cell<'_>) -> Result<T, &'static str>,
) -> Result<Vec<T>, MlError> {
    let chunk = group.metadata().column(column);
    let descr = chunk.column_descr();
    let name = descr.path().string();
    let fail = |problem: &str| Err(MlError::Data(format!("column `{name}`: {problem}")));
    if descr.max_rep_level() > 0 {
        return fail("holds lists; only flat columns are read");
    }
    if u64::try_from(chunk.uncompressed_size()).map_or(true, |n| n > MAX_FILE) {
        return fail("is too large");
    }
    let start = usize::try_from(chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset())).ok();
    let len = usize::try_from(chunk.compressed_size()).ok();
    let pages = start.zip(len).and_then(|(start, len)| file.get(start..start.checked_add(len)?));
    if !pages.is_some_and(thrift::pages_are_sane) {
        return fail("is damaged");
    }
    let kind = descr.converted_type();
    let unsigned = matches!(kind, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32);
    let levels = descr.max_def_level();
    let read = match (group.get_column_reader(column).map_err(damaged)?, kind) {
        (_, ConvertedType::DECIMAL) => return fail("is a decimal; store it as DOUBLE"),
        (ColumnReader::BoolColumnReader(r), _) => read_all(r, rows, levels, |v| to(Cell::Truth(*v))),
        (ColumnReader::Int32ColumnReader(r), _) if unsigned => {
            read_all(r, rows, levels, |v| to(Cell::Whole(i128::from(v.cast_unsigned()))))
        }
        (ColumnReader::Int32ColumnReader(r), _) => read_all(r, rows, levels, |v| to(Cell::Whole(i128::from(*v)))),
        (ColumnReader::Int64ColumnReader(r), ConvertedType::UINT_64) => {
            read_all(r, rows, levels, |v| to(Cell::Whole(i128::from(v.cast_unsigned()))))
        }
        (ColumnReader::Int64ColumnReader(r), _) => read_all(r, rows, levels, |v| to(Cell::Whole(i128::from(*v)))),
        (ColumnReader::FloatColumnReader(r), _) => read_all(r, rows, levels, |v| to(Cell::Real(f64::from(*v)))),
        (ColumnReader::DoubleColumnReader(r), _) => read_all(r, rows, levels, |v| to(Cell::Real(*v))),
        (ColumnReader::ByteArrayColumnReader(r), _) => read_all(r, rows, levels, |v| to(Cell::Text(v.data()))),
        _ => return fail("its type is neither number nor text"),
    };
    read.map_err(|(row, problem)| MlError::Data(format!("row {}, column `{name}`: {problem}", first + row + 1)))
}

/// All values of a column chunk, or the row and the problem.
fn read_all<D: DataType, T>(
    mut reader: ColumnReaderImpl<D>,
    rows: usize,
    most_levels: i16,
    to: impl Fn(&D::T) -> Result<T, &'static str>,
) -> Result<Vec<T>, (usize, String)> {
    const AT_ONCE: usize = 4096;
    let mut out = Vec::new();
    while out.len() < rows {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let wanted = AT_ONCE.min(rows - out.len());
        let (records, ..) = reader
            .read_records(wanted, Some(&mut levels), None, &mut values)
            .map_err(|e| (out.len(), format!("Parquet: {e}")))?;
        if let Some(missing) = levels.iter().position(|l| *l < most_levels) {
            return Err((out.len() + missing, "the cell is empty".into()));
        }
        if records == 0 || values.len() != records {
            return Err((out.len(), "the file ends here".into()));
        }
        for v in &values {
            let converted = to(v).map_err(|problem| (out.len(), problem.to_string()))?;
            out.push(converted);
        }
    }
    Ok(out)
}
