//! What systemd says of our own unit, asked over the system bus.

use std::time::Duration;
use zbus::connection::Builder;
use zbus::proxy::CacheProperties;
use zbus::{Error, OwnedObjectPath, fdo};

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

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait SystemdService {
    #[zbus(property, name = "FileDescriptorStorePreserve")]
    fn file_descriptor_store_preserve(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Job", default_service = "org.freedesktop.systemd1")]
trait SystemdJob {
    #[zbus(property)]
    fn job_type(&self) -> zbus::Result<String>;
}

/// Whether systemd stops this service, does not mean to start it again at once, and gives its sockets up.
///
/// With `FileDescriptorStorePreserve=yes` (systemd 254) it keeps them over a stop too, and everything that belongs to
/// them stays as it is. Where nobody can tell within a second, it is not for good: what is left in place then is found
/// and put right by the next start.
pub async fn is_stopped_for_good() -> bool {
    let told = tokio::time::timeout(Duration::from_secs(1), is_stopped_and_emptied()).await;
    matches!(told, Ok(Ok(true)))
}

async fn is_stopped_and_emptied() -> zbus::Result<bool> {
    let connection = Builder::system().build().await?;
    let manager = SystemdManagerProxy::new(&connection).await?;
    let path = manager.get_unit_by_pid(std::process::id()).await?;
    let unit = SystemdUnitProxy::builder(&connection)
        .path(path.clone())
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    let (_, job) = unit.job().await?;
    let job =
        SystemdJobProxy::builder(&connection).path(job).cache_properties(CacheProperties::No).build().await?;
    if job.job_type().await? != "stop" {
        return Ok(false);
    }
    let service = SystemdServiceProxy::builder(&connection)
        .path(path)
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    match service.file_descriptor_store_preserve().await {
        Ok(preserve) => Ok(preserve != "yes"),
        // An older one.
        Err(Error::FDO(error)) if matches!(*error, fdo::Error::UnknownProperty(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
