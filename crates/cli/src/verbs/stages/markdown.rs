//! The catalogue as a document: docs/stages.md.

use super::cards::{Key, Kind, Role};

/// The whole document.
pub(super) fn document(kinds: &[Kind]) -> String {
    let mut text = "# The catalogue\n\n<!-- Made by `wiredflow stages --markdown`; `cargo xtask docs` writes it anew. -->\n\n\
                    What a flow can have, key by key. `wiredflow stages KIND` shows the same on the terminal.\n"
        .to_owned();
    for role in Role::ALL {
        let of_role: Vec<&Kind> = kinds.iter().filter(|kind| kind.role == role).collect();
        if of_role.is_empty() {
            continue;
        }
        let (first, rest) = role.word().split_at(1);
        text.push_str(&format!(
            "\n## {}{rest}\n\nIn a flow: {}.\n",
            first.to_uppercase(),
            role.place()
        ));
        for kind in of_role {
            text.push_str(&section(kind));
        }
    }
    text
}

fn section(kind: &Kind) -> String {
    let name = kind.card.name;
    let mut text = format!("\n### `{name}`\n\n{}\n", kind.doc());
    if let Some(short) = kind.card.short {
        text.push_str(&format!(
            "\nShort form: `{name}: VALUE` stands for `{name}: {{{short}: VALUE}}`.\n"
        ));
    }
    let keys = kind.fields();
    if !keys.is_empty() {
        text.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
        for key in keys {
            text.push_str(&row(&key));
        }
    }
    text.push_str(&format!("\n```yaml\n{}\n```\n", kind.card.example));
    text
}

fn row(key: &Key) -> String {
    let default = match (key.required, key.default) {
        (true, _) => "must be given".to_owned(),
        (false, Some(default)) => format!("`{default}`"),
        (false, None) => String::new(),
    };
    let cell = |text: &str| text.replace('|', "\\|");
    format!(
        "| `{}` | {} | {} | {} |\n",
        key.name,
        cell(key.expects),
        cell(&default),
        cell(&key.doc)
    )
}
