//! Names as SQLite takes them.

/// The longest name of a table or a column, in characters.
const LONGEST_NAME: usize = 200;

/// SQLite's name for a row's number, by which rows are ordered. No field may have it.
pub(crate) const ROW_ID: &str = "_rowid_";

/// Whether a field can be a column.
pub(crate) fn check_column(name: &str) -> Result<(), String> {
    check_name(name, "column")?;
    if name.eq_ignore_ascii_case(ROW_ID) {
        return Err(format!(
            "`{name}` cannot be a column: it is SQLite's name for a row's number"
        ));
    }
    Ok(())
}

/// Whether a name can be that of a thing such as a table.
pub(crate) fn check_name(name: &str, what: &str) -> Result<(), String> {
    let shown: String = name.chars().take(40).collect();
    let shown = shown.escape_debug();
    if name.contains('\0') {
        return Err(format!("`{shown}` cannot be a {what}: it has a zero byte"));
    }
    if name.is_empty() || name.chars().nth(LONGEST_NAME).is_some() {
        return Err(format!(
            "`{shown}` cannot be a {what}: it has 1 to {LONGEST_NAME} characters"
        ));
    }
    Ok(())
}

/// A name as it stands in SQL.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
