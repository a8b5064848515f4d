"""Access to our records in ZooKeeper: the access control lists, our identity there, and the check of the server's
identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError, NoNodeError

from nodelaunch.errors import AccessDeniedError, StoreError
from nodelaunch.store.zookeeper.dial import ClientIdentity
from nodelaunch.store.zookeeper.store import TlsFiles, ZooKeeperStore
from nodelaunch.store.zookeeper.wire import Acl
from support.certificates import make_certificates
from support.peer import Requestor
from support.process import Serve, run
from support.zookeeper import JAVA_OPTIONS, Proxy, ZooKeeperServer, why_not

pytestmark = pytest.mark.zookeeper
DEADLINE_S = 30.0
USER, PASSWORD = "nodelaunch", "pass:word of ZooKeeper"
US = ClientIdentity("digest", f"{USER}:{PASSWORD}".encode())
OURS = [Acl("auth", "", "cdrwa")]
CONFIG = """
zookeeper-servers: [{{host: {host}, port: {port}, chroot: {chroot}}}]
zookeeper-timeout: 4
webapp: {{port: 0, listen_address: 127.0.0.1}}
labels: [{{name: small, min-ready: 1}}]
providers:
  - name: cloud
    driver: fake
    boot-time: 0
    cloud-images: [{{name: image}}]
    pools:
      - name: main
        max-servers: 8
        labels: [{{name: small, cloud-image: image, min-ram: 8192}}]
"""
DIGEST = """
zookeeper-auth: {{user: {user}, password-file: {file}}}
zookeeper-acl: [{{scheme: auth}}]
"""
X509 = """
zookeeper-tls: {{cert: {tls.cert}, key: {tls.key}, ca: {tls.ca}, check-host-name: false}}
zookeeper-acl:
  - {{scheme: auth}}
  - {{scheme: x509, id: CN=some zuul}}
"""

Client = Callable[..., KazooClient]


@pytest.fixture
def plain(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> Iterator[Client]:
    """Yield a function that makes kazoo clients without TLS, below the chroot, with the given credentials."""
    with ExitStack() as stack:

        def make(*who: str) -> KazooClient:
            auth = [("digest", f"{who[0]}:{who[1]}")] if who else None
            client = KazooClient(f"{zookeeper_server.host}:{zookeeper_server.port}", auth_data=auth)
            client.start(timeout=30)
            client.chroot = zk_chroot  # later, as ZooKeeper 3.9 lets no stranger look for it
            stack.callback(client.close)
            stack.callback(client.stop)
            return client

        yield make


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """Its certificate names ``localhost``; it has no users with passwords."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("strict")
    options = (*JAVA_OPTIONS, "-Dzookeeper.DigestAuthenticationProvider.enabled=false")
    server = ZooKeeperServer(folder, make_certificates(folder / "certificates", host="localhost"), options)
    server.start()
    yield server
    server.kill()


@contextmanager
def serving(path: Path, text: str) -> Iterator[Serve]:
    path.write_text(text)
    serve = Serve(path)
    try:
        yield serve
    finally:
        serve.kill()


def readable(client: KazooClient, path: str = "/") -> list[str]:
    """All paths at and below *path*; those that can't be looked at are left out."""
    try:
        names = client.get_children(path)
    except (NoAuthError, NoNodeError):
        return []
    below = (f"{path.rstrip('/')}/{name}" for name in names)
    return [path, *(each for child in below for each in readable(client, child))]


def refused(client: KazooClient, call: str, *arguments: object) -> bool:
    """Return whether access control lists refuse the call to *client*."""
    try:
        getattr(client, call)(*arguments)
    except NoAuthError:
        return True
    return False


def is_shut(client: KazooClient, path: str) -> bool:
    """Return whether every operation on the record at *path* is refused."""
    calls = (("get", path), ("get_children", path), ("set", path, b"{}"), ("create", f"{path}/x"), ("delete", path))
    return all(refused(client, *call) for call in calls)


# -- by user and password -------------------------------------------------------------------------------------------


def test_records_are_only_for_those_who_know_the_password(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, plain: Client, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n")
    values = {"host": zookeeper_server.host, "port": zookeeper_server.port, "chroot": zk_chroot}
    text = CONFIG.format(**values) + DIGEST.format(user=USER, file=secret)
    with serving(tmp_path / "nodepool.yaml", text) as serve:
        serve.await_log("pool_registered")
        friend, stranger = plain(USER, PASSWORD), plain()
        requestor = Requestor(friend)
        assert len(requestor.run_job("small")) == 1
        (node,) = requestor.await_children("/nodepool/nodes", lambda names: len(names) == 1)
        paths = readable(friend)
        assert {"/nodelaunch/launchers", f"/nodepool/nodes/{node}"} <= set(paths)
        for path in ("/nodelaunch", "/nodelaunch/launchers", "/nodepool", f"/nodepool/nodes/{node}"):
            assert is_shut(stranger, path), path
            assert is_shut(plain(USER, "wrong"), path), path
        assert readable(stranger) == []
        done = run("list", "-c", str(tmp_path / "nodepool.yaml"))
        assert done.returncode == 0, done.stderr
        assert node in done.stdout
        assert PASSWORD not in done.stdout + done.stderr + str(serve.log)
        assert serve.stop() == 0
        assert serve.complaints == []


async def test_identity_is_proved_again_on_each_connection(zookeeper_server: ZooKeeperServer, zk_chroot: str) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        Proxy(zookeeper_server.port) as proxy,
        ZooKeeperStore([("127.0.0.1", proxy.port)], chroot=zk_chroot, identity=US, acls=OURS) as store,
    ):
        await store.create("/a", b"1")
        for round_ in range(3):
            proxy.cut()
            await store.put("/a", b"%d" % round_)
        assert (await store.get("/a")).data == b"2"
        assert store.session.epoch == 1


@pytest.mark.parametrize("who", [None, ClientIdentity("digest", b"nodelaunch:wrong")], ids=["nobody", "wrong-password"])
async def test_refusal_says_what_where_and_what_to_look_at(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, who: ClientIdentity | None
) -> None:
    servers = [(zookeeper_server.host, zookeeper_server.port)]
    async with asyncio.timeout(DEADLINE_S):
        async with ZooKeeperStore(servers, chroot=zk_chroot, identity=US, acls=OURS) as store:
            await store.ensure("/nodepool/nodes")
        async with ZooKeeperStore(servers, identity=who) as other:
            path = f"{zk_chroot}/nodepool/nodes"
            for call in (other.get(path), other.children(path), other.create(f"{path}/1"), other.put(path, b"")):
                with pytest.raises(AccessDeniedError, match=rf"^{path}[^:]*: NoAuth: .*getAcl.*zookeeper-auth"):
                    await call
        with pytest.raises(AccessDeniedError, match="NoAuth"):
            async with ZooKeeperStore(servers, chroot=zk_chroot, identity=who):
                pass


async def test_acl_for_us_without_an_identity_is_refused_with_a_reason(
    zookeeper_server: ZooKeeperServer, zk_chroot: str
) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        ZooKeeperStore([(zookeeper_server.host, zookeeper_server.port)], acls=OURS) as store,
    ):
        with pytest.raises(StoreError, match=rf"^{zk_chroot}: InvalidACL: .*zookeeper-acl"):
            await store.create(zk_chroot)


# -- by certificate -------------------------------------------------------------------------------------------------


def test_records_are_only_for_those_whose_certificates_are_named(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, plain: Client, tmp_path: Path
) -> None:
    """The peer has a certificate of its own, as Zuul has; it needs nothing but to be named."""
    values = {"host": zookeeper_server.host, "port": zookeeper_server.tls_port, "chroot": zk_chroot}
    text = CONFIG.format(**values) + X509.format(tls=zookeeper_server.certificates.client)
    with serving(tmp_path / "nodepool.yaml", text) as serve:
        serve.await_log("pool_registered")
        stranger, peer = plain(), zookeeper_server.kazoo(who="zuul")
        peer.chroot = zk_chroot
        requestor = Requestor(peer)
        assert len(requestor.run_job("small")) == 1
        requestor.await_children("/nodepool/nodes", lambda names: len(names) == 1)
        assert readable(stranger) == []
        assert is_shut(stranger, "/nodepool/nodes")
        peer.stop()
        peer.close()
        assert serve.stop() == 0
        assert serve.complaints == []


# -- the server -----------------------------------------------------------------------------------------------------


def with_name_check(tls: TlsFiles) -> TlsFiles:
    return TlsFiles(tls.cert, tls.key, tls.ca, checks_host_name=True)


async def test_server_whose_certificate_names_the_host_is_used(strict_server: ZooKeeperServer) -> None:
    tls = with_name_check(strict_server.certificates.client)
    async with (
        asyncio.timeout(DEADLINE_S),
        ZooKeeperStore([("localhost", strict_server.tls_port)], tls=tls) as store,
    ):
        await store.create("/by-name")


def test_server_whose_certificate_names_no_host_is_refused_at_the_start(
    zookeeper_server: ZooKeeperServer, zk_chroot: str, tmp_path: Path
) -> None:
    values = {"host": zookeeper_server.host, "port": zookeeper_server.tls_port, "chroot": zk_chroot}
    tls = X509.format(tls=zookeeper_server.certificates.client).replace("host-name: false", "host-name: true")
    path = tmp_path / "nodepool.yaml"
    path.write_text(CONFIG.format(**values) + tls)
    done = run("list", "-c", str(path))
    assert done.returncode == 1
    where = f"{zookeeper_server.host}:{zookeeper_server.tls_port}"
    assert f"no session within 15 s; {where}: the server's certificate does not name 127.0.0.1" in done.stderr
    assert "check-host-name" in done.stderr


def test_server_that_does_not_take_our_identity_is_named_with_what_to_look_at(
    strict_server: ZooKeeperServer, tmp_path: Path
) -> None:
    path = tmp_path / "nodepool.yaml"
    values = {"host": strict_server.host, "port": strict_server.port, "chroot": "/x"}
    auth = f"zookeeper-auth: {{user: {USER}, password: '{PASSWORD}'}}\n"
    path.write_text(CONFIG.format(**values) + auth)
    done = run("list", "-c", str(path))
    assert done.returncode == 1
    where = f"{strict_server.host}:{strict_server.port}"
    assert f"no session within 15 s; {where}: the server refuses our digest identity (AuthFailed)" in done.stderr
    assert "check zookeeper-auth" in done.stderr
    assert PASSWORD not in done.stderr
