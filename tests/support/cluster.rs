//! Three members of one cluster. Belongs to `etcd.rs`.

use super::*;

/// Servers that form one etcd cluster.
#[derive(Debug)]
pub struct Cluster {
    pub(super) members: Vec<EtcdServer>,
}

impl Cluster {
    /// Starts a cluster with fresh data and waits until each member answers.
    ///
    /// # Errors
    /// [`StartError`], as for [`EtcdServer::start`].
    pub async fn start(members: usize) -> Result<Self, StartError> {
        EtcdServer::builder().cluster(members).await
    }

    /// The members, in no order of rank.
    pub fn members(&self) -> &[EtcdServer] {
        &self.members
    }

    /// The client URLs, in the order of [`Cluster::members`].
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(EtcdServer::endpoint).collect()
    }

    /// A new client of all members, as [`EtcdServer::client`].
    ///
    /// # Panics
    /// If an endpoint is refused as an address.
    pub async fn client(&self) -> Client {
        Client::connect(self.endpoints(), None).await.expect("connect is lazy")
    }

    /// The index of the member that says that it leads, or `None` while none does.
    pub async fn leader(&self) -> Option<usize> {
        for (index, member) in self.members.iter().enumerate() {
            let asked = async {
                let status = member.client().await.status().await.ok()?;
                Some(status.header()?.member_id() == status.leader())
            };
            if let Ok(Some(true)) = tokio::time::timeout(PROBE_MAX, asked).await {
                return Some(index);
            }
        }
        None
    }
}
