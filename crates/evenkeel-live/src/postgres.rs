//! The shared audit record in PostgreSQL: one row per line, one row for the end.
//!
//! ```text
//! evenkeel_audit_line   seq, file, line                  only ever added to, but for old files
//! evenkeel_audit_end    one row: number and hash of the last line, HEAD's text, the last file
//! ```
//! A batch is one statement: it moves the end from where the writer believes it to be, and adds the
//! lines only if it was there. So two writers never continue the same line.

use std::{fs, io, sync::Arc, time::Duration};

use evenkeel_control::redact;
use evenkeel_guard::{Batch, Doubt, LineStore, StoredEnd, StoredFile, StoredLine};
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, Row, config::SslMode, error::Severity};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::words::chain;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for an answer; the server gives up somewhat earlier itself.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// What the server is told: durable before the answer, whatever the database's default is, and
/// nothing waits for ever.
const SESSION: &str = "SET synchronous_commit = on; SET statement_timeout = '6s'; \
                       SET lock_timeout = '6s'; SET application_name = 'evenkeel'";
/// Lines read at once.
const PAGE: i64 = 1000;
/// Format of the tables.
const FORMAT: i32 = 1;
/// Who holds this lock of the database drops old lines.
const DROPPING: i64 = 0x6576_656e_6b65_656c;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS evenkeel_audit_line (
        seq bigint PRIMARY KEY, file integer NOT NULL, line text NOT NULL);
    CREATE INDEX IF NOT EXISTS evenkeel_audit_line_file ON evenkeel_audit_line (file);
    CREATE TABLE IF NOT EXISTS evenkeel_audit_end (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), format integer NOT NULL,
        seq bigint NOT NULL, hash text NOT NULL, head text NOT NULL, file integer NOT NULL,
        bytes bigint NOT NULL, started text NOT NULL);";
const FIRST_END: &str = "
    INSERT INTO evenkeel_audit_end (format, seq, hash, head, file, bytes, started)
    VALUES ($1, 0, repeat('0', 64), '', 0, 0, '') ON CONFLICT DO NOTHING";
const END: &str = "
    SELECT e.seq, e.head, e.file, e.bytes, e.started, coalesce(l.line, '')
    FROM evenkeel_audit_end e LEFT JOIN evenkeel_audit_line l ON l.seq = e.seq WHERE e.seq > 0";
const APPEND: &str = "
    WITH moved AS (
        UPDATE evenkeel_audit_end
        SET seq = $1, hash = $2, head = $3, file = $4, bytes = $5, started = $6
        WHERE seq = $7 AND hash = $8 RETURNING 1)
    INSERT INTO evenkeel_audit_line (seq, file, line)
    SELECT $7 + number, $4, line FROM unnest($9::text[]) WITH ORDINALITY AS new (line, number)
    WHERE EXISTS (SELECT 1 FROM moved)";
/// Numbers of the files, each found by the index: the lines may be millions.
const FILES: &str = "
    WITH RECURSIVE of (file) AS (
        SELECT min(file) FROM evenkeel_audit_line
        UNION ALL
        SELECT (SELECT min(file) FROM evenkeel_audit_line WHERE file > of.file)
        FROM of WHERE of.file IS NOT NULL)
    SELECT file FROM of WHERE file IS NOT NULL ORDER BY file";
/// One of them. Asked for one by one, none takes longer than a statement may.
const FILE: &str = "
    SELECT $1::integer, of.bytes, l.line
    FROM (SELECT sum(octet_length(line) + 1)::bigint AS bytes, min(seq) AS first
          FROM evenkeel_audit_line WHERE file = $1) of
    JOIN evenkeel_audit_line l ON l.seq = of.first";

/// Whether this process may drop old lines now; null when its user never may.
const LOCK: &str = "
    SELECT CASE WHEN has_table_privilege('evenkeel_audit_line', 'DELETE')
                THEN pg_try_advisory_lock($1) END";

/// Why a database cannot hold the record.
#[derive(Debug, thiserror::Error)]
pub enum RecordStoreError {
    /// The address is not one.
    #[error(
        "{address}: {problem}; give an address such as postgres://evenkeel@db.example.com/evenkeel"
    )]
    Address {
        /// It, without a password.
        address: String,
        /// What is wrong.
        problem: String,
    },
    /// It does not answer, or not as it should.
    #[error("{address}")]
    Answer {
        /// Its address, without a password.
        address: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Lines in a PostgreSQL database. **Not** for use on a thread that drives futures: it waits.
pub struct PostgresRecord {
    /// Without a password.
    address: String,
    config: Config,
    tls: MakeRustlsConnect,
    runtime: Runtime,
    client: Option<Client>,
    role: Role,
}

/// What is done with each new connection before anything else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing: who reads has looked already.
    Reader,
    /// The tables are made if they are not there, and their format is checked.
    Maker,
    /// Their format is checked: they were there, and another process may have changed them.
    Writer,
}

impl PostgresRecord {
    /// A record to write. It connects when it is used first, and then makes the tables when they
    /// are not there: a process may start before its database.
    ///
    /// The address is libpq's URL. `PGPASSWORD` counts when it has no password. With TLS the
    /// server's certificate is verified always, by the system's authorities or `sslrootcert`.
    ///
    /// **Errors**: the address or its options.
    pub fn open(address: &str) -> Result<Self, RecordStoreError> {
        Ok(Self { role: Role::Maker, ..Self::reader(address)? })
    }

    /// Connects to read what is there.
    ///
    /// **Errors**: as of [`Self::open`]; the database does not answer; there is no record, or one
    /// of a newer format.
    pub fn open_to_read(address: &str) -> Result<Self, RecordStoreError> {
        let mut record = Self::reader(address)?;
        let answer = |source| RecordStoreError::Answer { address: redact::url(address), source };
        let format = record.with(async |client| {
            let there = client
                .query_one("SELECT to_regclass('evenkeel_audit_end') IS NOT NULL", &[])
                .await?;
            let there: bool = there.try_get(0)?;
            if there { read_format(client).await } else { Ok(None) }
        });
        match format.map_err(answer)? {
            Some(format) => is_known(format).map_err(answer)?,
            None => return Err(answer(io::Error::other("it holds no audit record"))),
        }
        Ok(record)
    }

    fn reader(address: &str) -> Result<Self, RecordStoreError> {
        let wrong = |problem: String| RecordStoreError::Address {
            address: redact::url(address),
            problem: redact::text(&problem),
        };
        let (config, root) = parsed(address).map_err(wrong)?;
        let tls = MakeRustlsConnect::new(tls(root.as_deref()).map_err(wrong)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|source| RecordStoreError::Answer { address: redact::url(address), source })?;
        let address = redact::url(address);
        Ok(Self { address, config, tls, runtime, client: None, role: Role::Reader })
    }

    /// Runs this with a connection, a new one after each failure.
    fn with<T>(
        &mut self,
        run: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> io::Result<T> {
        self.attempt(run).map_err(|doubt| match doubt {
            Doubt::Not(error) | Doubt::Unknown(error) => error,
        })
    }

    fn stored_files(&mut self) -> io::Result<Vec<StoredFile>> {
        let numbers = self.with(async |client| client.query(FILES, &[]).await)?;
        let mut files = Vec::new();
        for row in &numbers {
            let number: i32 = get(row, 0)?;
            let file = self.with(async |client| client.query_opt(FILE, &[&number]).await)?;
            // None: somebody else has dropped it meanwhile.
            files.extend(file.as_ref().map(stored_file).transpose()?);
        }
        Ok(files)
    }

    fn attempt<T>(
        &mut self,
        run: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Doubt> {
        let Self { config, tls, runtime, client, role, .. } = self;
        runtime.block_on(async {
            let old = client.take().filter(|client| !client.is_closed());
            let connected = if let Some(client) = old {
                client
            } else {
                let connected = connect(config, tls).await.map_err(Doubt::Not)?;
                greet(&connected, *role).await.map_err(Doubt::Not)?;
                if *role == Role::Maker {
                    *role = Role::Writer;
                }
                connected
            };
            match tokio::time::timeout(ANSWER_MAX, run(&connected)).await {
                Ok(Ok(done)) => {
                    *client = Some(connected);
                    Ok(done)
                }
                Ok(Err(error)) if is_refusal(&error) => {
                    *client = Some(connected);
                    Err(Doubt::Not(described(&error)))
                }
                Ok(Err(error)) => Err(Doubt::Unknown(described(&error))),
                Err(_) => Err(Doubt::Unknown(silent(ANSWER_MAX))),
            }
        })
    }
}

impl LineStore for PostgresRecord {
    fn name(&self) -> String {
        self.address.clone()
    }

    fn end(&mut self) -> io::Result<Option<StoredEnd>> {
        let row = self.with(async |client| client.query_opt(END, &[]).await)?;
        row.as_ref().map(stored_end).transpose()
    }

    fn append(&mut self, batch: &Batch<'_>) -> Result<bool, Doubt> {
        let number = |seq: u64| i64::try_from(seq).map_err(|e| Doubt::Not(io::Error::other(e)));
        let (after, last, bytes) =
            (number(batch.after.0)?, number(batch.last.0)?, number(batch.bytes)?);
        let file = i32::try_from(batch.file).map_err(|e| Doubt::Not(io::Error::other(e)))?;
        let started = batch.started.to_string();
        let added = self.attempt(async |client| {
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
                &last,
                &batch.last.1,
                &batch.head,
                &file,
                &bytes,
                &started,
                &after,
                &batch.after.1,
                &batch.lines,
            ];
            client.execute(APPEND, &values).await
        })?;
        Ok(added > 0)
    }

    fn hash_of(&mut self, seq: u64) -> io::Result<Option<String>> {
        let seq = i64::try_from(seq).map_err(io::Error::other)?;
        let hash = "SELECT line::json->>'hash' FROM evenkeel_audit_line WHERE seq = $1";
        let row = self.with(async |client| client.query_opt(hash, &[&seq]).await)?;
        row.map(|row| row.try_get(0).map_err(|error| described(&error))).transpose()
    }

    fn files(&mut self) -> io::Result<Option<Vec<StoredFile>>> {
        let mine = self.with(async |client| client.query_one(LOCK, &[&DROPPING]).await)?;
        match get(&mine, 0)? {
            Some(true) => {}
            Some(false) => return Ok(None),
            None => {
                tracing::info!(
                    "old lines stay in the audit record: this user of the database may not delete \
                     any"
                );
                return Ok(None);
            }
        }
        let files = self.stored_files();
        if files.is_err() {
            // Others may try.
            self.remove(&[])?;
        }
        files.map(Some)
    }

    fn remove(&mut self, files: &[u32]) -> io::Result<()> {
        let files: Vec<i32> =
            files.iter().filter_map(|number| i32::try_from(*number).ok()).collect();
        self.with(async |client| {
            if !files.is_empty() {
                let delete = "DELETE FROM evenkeel_audit_line WHERE file = ANY($1)";
                client.execute(delete, &[&files]).await?;
            }
            client.execute("SELECT pg_advisory_unlock($1)", &[&DROPPING]).await
        })?;
        Ok(())
    }

    fn read(&mut self, behind: u64) -> io::Result<Vec<StoredLine>> {
        let behind = i64::try_from(behind).map_err(io::Error::other)?;
        let page = "SELECT seq, file, line FROM evenkeel_audit_line
                    WHERE seq > $1 ORDER BY seq LIMIT $2";
        let rows = self.with(async |client| client.query(page, &[&behind, &PAGE]).await)?;
        rows.iter().map(|row| line(row, 0, 1, 2)).collect()
    }
}

/// What comes before all else on a new connection.
async fn greet(client: &Client, role: Role) -> io::Result<()> {
    let look = async {
        if role == Role::Maker {
            prepare(client).await?;
        }
        if role == Role::Reader { Ok(None) } else { read_format(client).await }
    };
    match tokio::time::timeout(ANSWER_MAX, look).await {
        Ok(Ok(format)) => is_known(format.unwrap_or(FORMAT)),
        Ok(Err(error)) => Err(described(&error)),
        Err(_) => Err(silent(ANSWER_MAX)),
    }
}

async fn prepare(client: &Client) -> Result<(), tokio_postgres::Error> {
    let there =
        client.query_one("SELECT to_regclass('evenkeel_audit_end') IS NOT NULL", &[]).await?;
    if !there.try_get::<_, bool>(0)? {
        client.batch_execute(TABLES).await?;
    }
    client.execute(FIRST_END, &[&FORMAT]).await?;
    Ok(())
}

async fn read_format(client: &Client) -> Result<Option<i32>, tokio_postgres::Error> {
    let row = client.query_opt("SELECT format FROM evenkeel_audit_end", &[]).await?;
    row.map(|row| row.try_get(0)).transpose()
}

fn is_known(format: i32) -> io::Result<()> {
    if format == FORMAT {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "its tables are of format {format}, this version knows {FORMAT}: use the version that \
         made them, or a newer one"
    )))
}

async fn connect(config: &Config, tls: &MakeRustlsConnect) -> io::Result<Client> {
    let connect = async {
        let (client, connection) = config.connect(tls.clone()).await?;
        tokio::spawn(async move {
            // Whoever uses the client hears of it, too.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the database of the audit record ended");
            }
        });
        client.batch_execute(SESSION).await?;
        Ok(client)
    };
    match tokio::time::timeout(CONNECT_MAX, connect).await {
        Ok(connected) => connected.map_err(|error: tokio_postgres::Error| described(&error)),
        Err(_) => Err(silent(CONNECT_MAX)),
    }
}

/// Whether the server says that the statement had no effect. When it ends the session as well,
/// that is not certain.
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error))
}

fn silent(limit: Duration) -> io::Error {
    io::Error::other(format!("the database did not answer within {} s", limit.as_secs()))
}

fn described(error: &tokio_postgres::Error) -> io::Error {
    io::Error::other(redact::text(&chain(error)))
}

/// The configuration, and the file with the authorities.
fn parsed(address: &str) -> Result<(Config, Option<String>), String> {
    if !address.starts_with("postgres://") && !address.starts_with("postgresql://") {
        return Err("it is not the address of a PostgreSQL database".to_owned());
    }
    let (base, options) = address.split_once('?').unwrap_or((address, ""));
    let (mut root, mut kept, mut verified) = (None, Vec::new(), false);
    for option in options.split('&').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("sslrootcert", file)) => root = Some(file.replace("%2F", "/")),
            // What libpq verifies with these is verified always.
            Some(("sslmode", "verify-full" | "verify-ca")) => verified = true,
            _ => kept.push(option),
        }
    }
    let text = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
    let mut config: Config = text.parse().map_err(|error| chain(&error))?;
    if verified {
        config.ssl_mode(SslMode::Require);
    }
    if config.get_password().is_none()
        && let Ok(password) = std::env::var("PGPASSWORD")
    {
        config.password(password);
    }
    config.connect_timeout(CONNECT_MAX).keepalives_idle(ANSWER_MAX);
    Ok((config, root))
}

fn tls(root: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let found = match root {
        Some(file) => {
            let bytes = fs::read(file).map_err(|error| format!("sslrootcert {file}: {error}"))?;
            let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
            parsed.map_err(|error| format!("sslrootcert {file}: {error}"))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(found);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| chain(&error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn stored_end(row: &Row) -> io::Result<StoredEnd> {
    let started: String = get(row, 4)?;
    Ok(StoredEnd {
        last: line(row, 0, 2, 5)?,
        head: get(row, 1)?,
        bytes: u64::try_from(get::<i64>(row, 3)?).map_err(io::Error::other)?,
        started: started.parse::<Timestamp>().map_err(io::Error::other)?,
    })
}

fn stored_file(row: &Row) -> io::Result<StoredFile> {
    Ok(StoredFile {
        number: u32::try_from(get::<i32>(row, 0)?).map_err(io::Error::other)?,
        bytes: u64::try_from(get::<i64>(row, 1)?).map_err(io::Error::other)?,
        first: get(row, 2)?,
    })
}

fn line(row: &Row, seq: usize, file: usize, text: usize) -> io::Result<StoredLine> {
    Ok(StoredLine {
        seq: u64::try_from(get::<i64>(row, seq)?).map_err(io::Error::other)?,
        file: u32::try_from(get::<i32>(row, file)?).map_err(io::Error::other)?,
        text: get(row, text)?,
    })
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> io::Result<T> {
    row.try_get(at).map_err(|error| described(&error))
}
