//! Comma-separated tables with a header row, plain or gzip.

use super::{Columns, MAX_COLUMNS, Table, check_size, list, shorten, unpack};
use crate::MlError;

/// Reads the wanted columns of a table.
///
/// # Errors
/// If a column is missing, a row has too few or too many cells, or a feature is no finite number; says where.
pub fn read(bytes: Vec<u8>, wanted: &Columns) -> Result<Table, MlError> {
    let bytes = unpack(bytes)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let fail = |e: csv::Error| MlError::Data(e.to_string());
    let header = reader.headers().map_err(fail)?;
    if header.len() > MAX_COLUMNS {
        return Err(MlError::Data(format!("more than {MAX_COLUMNS} columns")));
    }
    let there: Vec<String> = header.iter().map(str::to_string).collect();
    if there.iter().all(String::is_empty) {
        return Err(MlError::Data("no header row with the names of the columns".into()));
    }
    let (label, features) = wanted.find(&there)?;
    let names = features.iter().filter_map(|f| there.get(*f)).cloned().collect();
    let mut table = Table { features: names, values: Vec::new(), labels: Vec::new() };
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(fail)? {
        check_size(table.labels.len() + 1, features.len())?;
        let line = record.position().map_or(0, csv::Position::line);
        let at = |column: usize, problem: String| {
            let name = there.get(column).map_or(String::new(), |n| shorten(n));
            MlError::Data(format!("line {line}, column `{name}`: {problem}"))
        };
        let cell = |column: usize| match record.get(column) {
            Some("") | None => Err(at(column, "the cell is empty".into())),
            Some(cell) => Ok(cell),
        };
        for f in &features {
            let number: f64 = cell(*f)?.parse().unwrap_or(f64::NAN);
            if !number.is_finite() {
                let problem = format!(
                    "`{}` is no number; leave the column out by naming the others in `features`",
                    shorten(cell(*f)?)
                );
                return Err(at(*f, problem));
            }
            table.values.push(number);
        }
        table.labels.push(cell(label)?.to_string());
    }
    if table.labels.is_empty() {
        return Err(MlError::Data(format!("no rows below the header {}", list(&there))));
    }
    Ok(table)
}
