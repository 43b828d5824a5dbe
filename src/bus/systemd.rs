//! What systemd says of our own unit, asked over the system bus.

use std::time::Duration;
use zbus::OwnedObjectPath;
use zbus::connection::Builder;
use zbus::proxy::CacheProperties;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait SystemdManager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait SystemdUnit {
    #[zbus(property)]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Job", default_service = "org.freedesktop.systemd1")]
trait SystemdJob {
    #[zbus(property)]
    fn job_type(&self) -> zbus::Result<String>;
}

/// Whether systemd stops this service and does not mean to start it again at once. Where nobody can tell within
/// a second, it does not: what is left in place then is found and put right by the next start.
pub async fn is_stopped_for_good() -> bool {
    let job = tokio::time::timeout(Duration::from_secs(1), own_job_type()).await;
    matches!(job, Ok(Ok(kind)) if kind == "stop")
}

async fn own_job_type() -> zbus::Result<String> {
    let connection = Builder::system().build().await?;
    let manager = SystemdManagerProxy::new(&connection).await?;
    let unit = manager.get_unit_by_pid(std::process::id()).await?;
    let unit = SystemdUnitProxy::builder(&connection)
        .path(unit)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let (_, job) = unit.job().await?;
    let job =
        SystemdJobProxy::builder(&connection).path(job).cache_properties(CacheProperties::No).build().await?;
    job.job_type().await
}
