"""My own hosts: machines that exist already, named on the command line.

    python my_own_hosts.py --key ~/.ssh/id_ed25519 ana@node1 node2:2222

They are taken and given back, never ended. Each must let the key in.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from precip_async import ExperimentException, HostsExperiment


async def main(hosts: list[str], key: str | None) -> None:
    """Ask each host how it is, all at once."""
    async with HostsExperiment(hosts, ssh_key=key, parallel=True) as exp:
        await exp.provision(count=len(hosts))
        await exp.wait(timeout=30)
        results = await exp.run([], "hostname; uptime", timeout=10, check_exit_code=False)
        for r in results.by_instance:
            print(f"{r.instance_id} ({r.user}), exit code {r.exit_code}:\n{r.stdout}{r.stderr}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ask hosts how they are.")
    parser.add_argument("hosts", nargs="+", help="host, user@host or user@host:port")
    parser.add_argument("--key", help="the private key to log in with; default: that of the home")
    given = parser.parse_args()
    try:
        asyncio.run(main(given.hosts, given.key))
    except ExperimentException as error:
        sys.exit(f"ERROR: {error}")
