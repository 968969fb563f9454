//! Several policies that select one SLO: the strictest answer counts, whatever their names are.

use super::*;

/// A policy for all SLOs of the namespace.
fn for_all(name: &str, spec: &Value) -> Value {
    let mut policy = policy();
    policy["metadata"]["name"] = name.into();
    policy["spec"] = spec.clone();
    policy["spec"]["selector"] = json!({"all": true});
    policy
}

/// One for the service that denies every release.
fn freeze() -> Value {
    let mut policy = policy();
    let states = ["healthy", "caution", "slow", "frozen", "burning", "unknown"];
    let deny: serde_json::Map<_, _> =
        states.iter().map(|state| ((*state).to_owned(), json!("deny"))).collect();
    policy["spec"]["actions"] = json!({"deploy": deny});
    policy
}

async fn delete<T: evenkeel_api::ApiObject>(world: &World, name: &str) {
    let key = Key::of::<T>(NS, name);
    world.store.delete(&key, &DeleteOptions::default()).await.unwrap();
}

async fn create(world: &World, object: Value) {
    world.store.create(&Obj::from_json(object).unwrap(), &WRITE).await.unwrap();
}

async fn budget(world: &World) -> Value {
    world.json::<Canary>("api-service").await["status"]["errorBudget"].clone()
}

async fn accepted(world: &World, policy: &str) -> String {
    let status = world.json::<ErrorBudgetPolicy>(policy).await["status"].clone();
    condition(&status, "Accepted")
}

#[tokio::test(start_paused = true)]
async fn of_several_policies_of_an_slo_the_strictest_decides_whatever_its_name() {
    let mut world = World::new(&[slo(), canary(), freeze()]).await;
    world.run(60, 0.0).await;
    assert_eq!(world.permission().await, "deny BudgetHealthy");
    assert_eq!(accepted(&world, "api").await, "True Valid: it is for 1 SLO of this namespace");
    // Names before and after it, alike.
    for name in ["aaa", "zzz"] {
        create(&world, for_all(name, &json!({}))).await;
        world.run(30, 0.0).await;
        assert_eq!(world.permission().await, "deny BudgetHealthy", "{name}");
    }
    // A new policy that decides nothing is named when the answer is written again.
    world.run(300, 0.0).await;
    let budget = budget(&world).await;
    assert_eq!((&budget["policy"], &budget["slos"][0]["policy"]), (&json!("api"), &json!("api")));
    let message = budget["message"].as_str().unwrap();
    let by = "by ErrorBudgetPolicy/api, the strictest of those that select the SLO (aaa: allow, \
        zzz: allow)";
    assert!(message.contains(by), "{message}");
    let slo = world.slo().await["slos"][0].clone();
    let others = slo["otherPolicies"].as_array().unwrap().clone();
    let names: Vec<_> = others.iter().map(|other| other["policy"].as_str().unwrap()).collect();
    assert_eq!((slo["policy"].as_str().unwrap(), names), ("api", vec!["aaa", "zzz"]));
    assert_eq!(
        accepted(&world, "api").await,
        "True Valid: it is for 1 SLO of this namespace, of which other policies select some, too \
         (1 by ErrorBudgetPolicy/aaa, 1 by ErrorBudgetPolicy/zzz): the strictest answer counts"
    );
    assert!(accepted(&world, "aaa").await.contains("1 by ErrorBudgetPolicy/api"));

    // When it is gone, the others answer, and no condition speaks of it any more.
    delete::<ErrorBudgetPolicy>(&world, "api").await;
    world.run(30, 0.0).await;
    assert_eq!(world.permission().await, "allow BudgetHealthy");
    assert!(!accepted(&world, "aaa").await.contains("ErrorBudgetPolicy/api"));
    delete::<ErrorBudgetPolicy>(&world, "zzz").await;
    world.run(30, 0.0).await;
    let slo = world.slo().await["slos"][0].clone();
    assert_eq!((&slo["policy"], &slo["otherPolicies"]), (&json!("aaa"), &Value::Null));
    assert_eq!(accepted(&world, "aaa").await, "True Valid: it is for 1 SLO of this namespace");
}

#[tokio::test(start_paused = true)]
async fn each_policy_judges_by_its_own_thresholds() {
    // A little is gone: nothing to the one, too much to the other.
    let strict = json!({"remainingPercent": {"caution": 100, "slow": 100, "frozen": 99.99}});
    let mut world =
        World::new(&[slo(), canary(), for_all("aaa", &json!({})), for_all("bbb", &strict)]).await;
    world.run(1800, 0.0).await;
    world.run(60, 1.0).await;
    assert_eq!(world.permission().await, "deny BudgetFrozen");
    let budget = budget(&world).await;
    assert_eq!((&budget["policy"], &budget["state"]), (&json!("bbb"), &json!("frozen")));
    let slo = world.slo().await["slos"][0].clone();
    assert_eq!((&slo["policy"], &slo["state"]), (&json!("bbb"), &json!("frozen")));
    assert_eq!(slo["otherPolicies"][0]["policy"], "aaa");
    // A restart keeps the state and the time of each.
    let since = |slo: &Value| (slo["since"].clone(), slo["otherPolicies"][0]["since"].clone());
    world.restart();
    world.run(90, 0.0).await;
    assert_eq!(since(&world.slo().await["slos"][0]), since(&slo));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_not_valid_is_never_laxer_than_the_valid_ones() {
    let mut broken = policy();
    broken["metadata"]["name"] = "broken".into();
    broken["spec"]["selector"] = json!({});
    let mut world = World::new(&[slo(), canary(), for_all("aaa", &json!({})), broken]).await;
    world.run(60, 0.0).await;
    assert_eq!(world.permission().await, "approve PolicyInvalid");
    let message = budget(&world).await["message"].to_string();
    assert!(message.contains("ErrorBudgetPolicy/broken is not valid: correct it"), "{message}");
    // A person may open it, as everything that is to be approved.
    let now = world.time.now();
    let glass = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "BreakGlass",
        "metadata": {"name": "hotfix", "namespace": NS},
        "spec": {"reason": "the fix is known", "author": "ana", "granted": now,
            "expires": now + SignedDuration::from_mins(30), "classes": ["deploy"]}});
    create(&world, glass).await;
    world.run(30, 0.0).await;
    assert_eq!(world.permission().await, "allow BreakGlass");
    assert_eq!(budget(&world).await["breakGlass"]["name"], "hotfix");
    // What a valid policy denies stays denied.
    create(&world, freeze()).await;
    delete::<evenkeel_api::slo::BreakGlass>(&world, "hotfix").await;
    world.run(30, 0.0).await;
    assert_eq!(world.permission().await, "deny BudgetHealthy");
}
