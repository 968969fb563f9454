//! The folders in `examples/`, as they are: their programs are those of Debian.

use std::fs;

use anyhow::{Context as _, ensure};

use crate::world::{self, Cluster, Folder, soon};

/// `nobody`, when the tests run as root.
fn other_user() -> Option<u32> {
    nix::unistd::geteuid().is_root().then_some(65_534)
}

fn started(name: &str, user: Option<u32>) -> anyhow::Result<(Folder, Cluster)> {
    let kubectl = world::kubectl_program()?;
    let folder = Folder::new(&format!("example-{name}-{}", user.unwrap_or_default()))?;
    let from = format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"));
    for file in fs::read_dir(&from).with_context(|| from.clone())? {
        let file = file?;
        let text = fs::read_to_string(file.path())?;
        let name = file.file_name().into_string().ok().context("a file name")?;
        folder.write(&format!("manifests/{name}"), &text)?;
    }
    let cluster = Cluster::start_as(&folder, &kubectl, user, &["--network", "own"])?;
    cluster.line("other commands: --data-dir ")?;
    cluster.line("console: ")?;
    cluster.line("ready")?;
    Ok((folder, cluster))
}

fn ended(cluster: Cluster) -> anyhow::Result<()> {
    let problems = cluster.complaints()?;
    ensure!(!problems.contains("not applied") && !problems.contains("ERROR"), "{problems}");
    let left = cluster.end()?;
    ensure!(left.is_empty(), "left running: {left:#?}");
    Ok(())
}

/// A front, a worker and Redis between them.
#[test]
fn queue() -> anyhow::Result<()> {
    let (_folder, cluster) = started("queue", None)?;
    soon(|| world::get("127.0.0.1:18081", "").map(drop))?;
    for job in ["one", "two", "three"] {
        let answer = world::post("127.0.0.1:18081", "", job)?;
        ensure!(answer.starts_with("queued by front-"), "{answer}");
    }
    soon(|| {
        let answer = world::get("127.0.0.1:18081", "")?;
        ensure!(answer == "done: 3\n", "{answer}");
        Ok(())
    })?;
    let logs = cluster.kubectl("logs -n queue -l app=worker --prefix=false", "")?;
    ensure!(logs.out.matches("has done").count() == 3, "{logs:?}");
    cluster.says("exec -n queue deployment/redis -- redis-cli get done", "3")?;
    ended(cluster)
}

/// PostgreSQL with a claim, which outlives its pod.
fn database_as(user: Option<u32>) -> anyhow::Result<()> {
    let (_folder, cluster) = started("database", user)?;
    let ready = "rollout status -n database statefulset/db --timeout=60s";
    ensure!(cluster.kubectl(ready, "")?.code == Some(0), "{}", cluster.complaints()?);
    let sql = |pod: &str, host: &str, statement: &str| {
        let command = format!(
            "exec -n database {pod} -- env PGPASSWORD=keel psql -h {host} -U postgres -Atc"
        );
        let words = command.split(' ').chain([statement]);
        cluster.kubectl_words(&words.collect::<Vec<_>>())
    };
    let said = sql("db-0", "127.0.0.1", "create table t as select 42 as answer")?;
    ensure!(said.code == Some(0), "{said:?}");
    // From the other pod, by the name of the pod and by the address of a Service.
    for host in ["db-0.db", "db-0"] {
        soon(|| {
            let said = sql("db-1", host, "select answer from t")?;
            ensure!(said.out == "42\n", "{host}: {said:?}");
            Ok(())
        })?;
    }
    let uid = "get pod -n database db-0 -o jsonpath={.metadata.uid}";
    let before = cluster.kubectl(uid, "")?.out;
    cluster.mentions("delete pod -n database db-0", "pod \"db-0\" *deleted*")?;
    soon(|| {
        let now = cluster.kubectl(uid, "")?.out;
        ensure!(!now.is_empty() && now != before, "still {before}");
        Ok(())
    })?;
    soon(|| {
        let said = sql("db-1", "db-0.db", "select answer from t")?;
        ensure!(said.out == "42\n", "{said:?}");
        Ok(())
    })?;
    ended(cluster)
}

#[test]
fn database() -> anyhow::Result<()> {
    database_as(None)
}

#[test]
fn database_without_root() -> anyhow::Result<()> {
    // Whoever runs the tests without root has seen it in the other one.
    other_user().map_or(Ok(()), |user| database_as(Some(user)))
}

/// A Job in parts, and one of a `CronJob` with a claim.
#[test]
fn batch() -> anyhow::Result<()> {
    let (_folder, cluster) = started("batch", other_user())?;
    let done = "wait -n batch --for=condition=complete job/parts --timeout=60s";
    cluster.mentions(done, "job.batch/parts condition met")?;
    let logs = cluster.kubectl("logs -n batch -l job-name=parts --tail=-1", "")?.out;
    for part in 0..4 {
        ensure!(logs.contains(&format!("part {part} is done")), "{logs}");
    }
    for (run, lines) in [("first", "1"), ("second", "2")] {
        cluster.mentions(
            &format!("create job -n batch --from=cronjob/report {run}"),
            &format!("job.batch/{run} created"),
        )?;
        let done = format!("wait -n batch --for=condition=complete job/{run} --timeout=60s");
        cluster.mentions(&done, "* condition met")?;
        let said = cluster.kubectl(&format!("logs -n batch job/{run}"), "")?.out;
        // The schedule may have come first.
        let count: u32 = said.trim().parse()?;
        ensure!(count >= lines.parse()?, "{said}");
    }
    ended(cluster)
}
