//! Development entry until the commands are merged.
mod serve;
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().collect();
    let mut sources = relay_node::config::Sources::default();
    for pair in args[2..].chunks(2) {
        let path = match pair[0].as_str() {
            "--data-dir" => "node.data_dir",
            "--listen" => "listen.http",
            _ => "listen.socket",
        };
        sources.flags.push(relay_node::config::FlagValue {
            flag: pair[0].clone(),
            path: path.into(),
            value: pair[1].clone(),
        });
    }
    let config = relay_node::config::load(&sources).map_err(|p| anyhow::anyhow!("{p}"))?.config;
    tokio::runtime::Runtime::new()?.block_on(serve::run(config))
}
