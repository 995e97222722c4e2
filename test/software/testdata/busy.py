"""Does what programs do with a kernel: threads, processes, a database, sockets, locks, signals, clocks. What goes wrong is an exception."""
import asyncio, fcntl, hashlib, mmap, multiprocessing, os, queue, random, select, signal, socket, sqlite3, subprocess, sys, tempfile, threading, time

scale = int(sys.argv[1])


def threads():
    jobs, done, total = queue.Queue(), queue.Queue(), 20 * scale
    def work():
        while (n := jobs.get()) is not None:
            done.put(hashlib.sha256(str(n).encode()).hexdigest())
    crew = [threading.Thread(target=work) for _ in range(8)]
    for t in crew: t.start()
    for n in range(total): jobs.put(n)
    for _ in crew: jobs.put(None)
    for t in crew: t.join()
    assert sorted(done.get() for _ in range(total)) == sorted(hashlib.sha256(str(n).encode()).hexdigest() for n in range(total))


def square(n): return n * n


def processes():
    with multiprocessing.Pool(4) as pool:  # forks, pipes, semaphores in /dev/shm
        assert pool.map(square, range(20 * scale)) == [n * n for n in range(20 * scale)]
    for n in range(2 * scale):
        out = subprocess.run(["sh", "-c", f"read a; echo $((a * {n})); exit {n % 7}"], input="21\n", capture_output=True, text=True)
        assert (out.stdout, out.returncode) == (f"{21 * n}\n", n % 7), out
    dies = subprocess.run(["sh", "-c", "kill -SEGV $$"])
    assert dies.returncode == -signal.SIGSEGV, dies
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    os.killpg(sleeper.pid, signal.SIGTERM)
    assert sleeper.wait() == -signal.SIGTERM


def database(folder):
    path = os.path.join(folder, "data.sqlite")
    setup = sqlite3.connect(path)
    setup.execute("pragma journal_mode=wal")  # a shared mapping, and byte range locks between processes
    setup.execute("create table counts (who int, n int)")
    setup.commit(); setup.close()
    children = []
    for who in range(3):
        if (pid := os.fork()) == 0:
            db = sqlite3.connect(path, timeout=120)
            for n in range(5 * scale):
                with db: db.execute("insert into counts values (?, ?)", (who, n))
            db.close(); os._exit(0)
        children.append(pid)
    for pid in children: assert os.waitpid(pid, 0)[1] == 0
    db = sqlite3.connect(path)
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    assert db.execute("select count(*), count(distinct who), max(n) from counts").fetchone() == (15 * scale, 3, 5 * scale - 1)


def files(folder):
    path = os.path.join(folder, "file")
    with open(path, "wb+") as f:
        f.truncate(1 << 20)
        with mmap.mmap(f.fileno(), 1 << 20) as m:
            m[4096:4101] = b"hello"
            m.flush()
        os.fsync(f.fileno())
        assert os.pread(f.fileno(), 5, 4096) == b"hello"
        fcntl.flock(f, fcntl.LOCK_EX)
        with open(path, "rb") as other:
            try: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB); raise AssertionError("locked twice")
            except BlockingIOError: pass
    os.symlink("file", path + ".link"); os.link(path, path + ".hard")
    assert os.stat(path).st_nlink == 2 and os.readlink(path + ".link") == "file"
    os.rename(path, path + ".new"); os.chmod(path + ".new", 0o4711); os.utime(path + ".new", (1, 2))
    s = os.stat(path + ".new")
    assert (s.st_mode & 0o7777, s.st_mtime) == (0o4711, 2), s
    with tempfile.TemporaryFile(dir=folder) as t: t.write(b"x" * 100000)  # O_TMPFILE, or opened and unlinked
    for n in range(20 * scale): open(os.path.join(folder, f"n{n}"), "w").close()
    assert sum(name.startswith("n") for name in os.listdir(folder)) == 20 * scale


def sockets(folder):
    async def main():
        async def echo(reader, writer):
            while data := await reader.read(65536):
                writer.write(data); await writer.drain()
            writer.close()
        tcp = await asyncio.start_server(echo, "127.0.0.1", 0)
        unix = await asyncio.start_unix_server(echo, os.path.join(folder, "socket"))
        async def ask(open_it, n):
            reader, writer = await open_it()
            sent = random.randbytes(1000 * n + 1)
            writer.write(sent); writer.write_eof()
            assert await reader.read(-1) == sent
            writer.close()
        port = tcp.sockets[0].getsockname()[1]
        await asyncio.gather(*(ask(lambda: asyncio.open_connection("127.0.0.1", port), n) for n in range(10)),
                             *(ask(lambda: asyncio.open_unix_connection(os.path.join(folder, "socket")), n) for n in range(10)))
        tcp.close(); unix.close()
    asyncio.run(main())
    a, b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    a.bind(("127.0.0.1", 0)); b.sendto(b"datagram", a.getsockname())
    assert select.select([a], [], [], 60)[0] and a.recv(100) == b"datagram"
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [a.fileno()])  # a descriptor through a socket
    assert os.fstat(socket.recv_fds(right, 1, 1)[1][0]).st_ino == os.fstat(a.fileno()).st_ino


def clocks():
    before = time.monotonic()
    time.sleep(0.2)
    assert 0.19 < time.monotonic() - before < 60
    assert time.time() > 1.7e9
    rang = threading.Event()
    signal.signal(signal.SIGALRM, lambda *_: rang.set())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    assert rang.wait(60)
    assert len(set(os.urandom(16) for _ in range(100))) == 100


folder = sys.argv[2]
for step in (threads, processes, lambda: database(folder), lambda: files(folder), lambda: sockets(folder), clocks):
    step()
print("all done")
