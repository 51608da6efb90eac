//! Writes a store down, a part at a time: each account, its apps, and their keys, so that a record
//! comes after the one that it belongs to.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use keygate_core::{AccountId, AppId, UnixMillis};
use keygate_store::backup::{Counts, Line};
use keygate_store::keys::{KeyStore, Page, StoredRecord};

use super::PART;
use crate::output;

/// Writes to standard output. A reader that stops early gets a part, and this fails.
pub(super) async fn to_stdout(store: &impl KeyStore, now: UnixMillis) -> anyhow::Result<Counts> {
    let mut out = output::writer();
    let counts = write_all(store, now, &mut out).await?;
    out.flush().context("cannot write to standard output")?;
    Ok(counts)
}

/// Writes to a file for its owner alone. After a crash there is all of it, or what was there before.
pub(super) async fn to_file(
    store: &impl KeyStore,
    now: UnixMillis,
    path: &Path,
) -> anyhow::Result<Counts> {
    let failed = || format!("cannot write {}", path.display());
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    // Made with mode 0600, and removed again unless it is persisted.
    let file = tempfile::Builder::new().prefix(".export-").tempfile_in(folder);
    let mut out = BufWriter::new(file.with_context(failed)?);
    let counts = write_all(store, now, &mut out).await?;
    let file = out.into_inner().map_err(|error| error.into_error()).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    file.persist(path).map_err(|error| error.error).with_context(failed)?;
    // The name is durable only once its folder is.
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(failed)?;
    Ok(counts)
}

async fn write_all(
    store: &impl KeyStore,
    now: UnixMillis,
    out: &mut impl Write,
) -> anyhow::Result<Counts> {
    let mut writer = Writer { out, counts: Counts::default() };
    let mut after = None;
    loop {
        let accounts = store.accounts(Page { after, limit: PART }).await.context(READING)?;
        let Some(last) = accounts.last() else { break };
        if after.is_none() {
            writer.line(&Line::Start { at: now })?;
        }
        after = Some(last.id);
        for account in accounts {
            let id = account.id;
            writer.record(StoredRecord::Account(account))?;
            write_apps(store, id, &mut writer).await?;
        }
    }
    // A store that nobody wrote to is most likely not the one that was meant, or was emptied: the last
    // backup is worth more. All that Redis then has is the description that who connects makes.
    anyhow::ensure!(writer.counts != Counts::default(), "{EMPTY}");
    writer.line(&Line::End(writer.counts))?;
    Ok(writer.counts)
}

const READING: &str = "cannot read the store";
const EMPTY: &str = "the store is empty, so nothing was exported: check `[store]`, and in Redis \
                     `database` and `key_prefix`";

async fn write_apps(
    store: &impl KeyStore,
    account: AccountId,
    writer: &mut Writer<'_, impl Write>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let apps = store.apps(account, Page { after, limit: PART }).await.context(READING)?;
        let Some(last) = apps.last() else { return Ok(()) };
        after = Some(last.id);
        for app in apps {
            let id = app.id;
            writer.record(StoredRecord::App(app))?;
            write_keys(store, id, writer).await?;
        }
    }
}

async fn write_keys(
    store: &impl KeyStore,
    app: AppId,
    writer: &mut Writer<'_, impl Write>,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let keys = store.keys(app, Page { after, limit: PART }).await.context(READING)?;
        let Some(last) = keys.last() else { return Ok(()) };
        after = Some(last.id);
        for key in keys {
            writer.record(StoredRecord::Key(key))?;
        }
    }
}

struct Writer<'a, W> {
    out: &'a mut W,
    counts: Counts,
}

impl<W: Write> Writer<'_, W> {
    fn record(&mut self, record: StoredRecord) -> anyhow::Result<()> {
        self.counts.count(&record);
        self.line(&Line::Record(record))
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        self.out.write_all(&line.encode()?).context("cannot write the export")
    }
}
