package garbage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"brig/api"
	"brig/internal/base/atomicfile"
	"brig/internal/base/id"
	"brig/internal/base/lock"
)

// A budget bounds what all of --root takes (du -s): before something is written that lasts, room for it is reserved.
//
//	reserve/.lock    held while a reservation is made or given back
//	reserve/ID       what one process has reserved, in bytes; locked by it, so that a dead process has reserved nothing
//	reserve/ledger   what was measured last, with all that was written since added
//
// Used is what is on the disk but for blobs and layers on their way in: those are in reservations, whole, from before their first byte. A
// reservation that ends is added to the ledger, whatever came of it, so the sum is never too small; a new measurement sets it right. Used and reserved
// together stay below the limit. Where they would not, what nothing needs is removed, then images that no container uses, the least recently used
// first, and if all that were not enough nothing is removed.
//
// What is not counted before it is written: records, names and folders, [BudgetSlack] for a transfer at most; and what containers write, which
// counts once it is measured but is not limited.
const (
	reserveDir = "reserve"
	ledgerFile = "ledger"
	// ledgerAge is how long a measurement is trusted.
	ledgerAge = 10 * time.Second
	// BudgetSlack is by how much a transfer may exceed the limit, in bytes.
	BudgetSlack = 1 << 20
	// maxReserve bounds what is reserved at a time, in bytes, so that sums do not overflow; no disk has as many.
	maxReserve = 1 << 60
	// blockSize is what a file's size is rounded up to.
	blockSize = 4096
	// minStep and maxStep bound how many bytes a Growth reserves at a time.
	minStep, maxStep = 64 << 10, 8 << 20
)

// Budget is what one process may still write. It is safe for use by several goroutines.
type Budget struct {
	s     Stores
	limit int64 // 0: none

	mu       sync.Mutex // guards what follows; taken before reserve/.lock
	file     *lock.Lock // reserve/ID, nil: not made yet
	path     string
	reserved int64
}

// Budget opens the store's budget, as it is set now or by Limit. Close ends it.
func (s Stores) Budget() (*Budget, error) {
	set, err := s.Settings()
	if err != nil {
		return nil, err
	}
	limit := set.StoreLimit
	if s.Limit > 0 && (limit == 0 || s.Limit < limit) {
		limit = s.Limit
	}
	return &Budget{s: s, limit: limit}, nil
}

// Limit is the store's limit in bytes, 0 where it has none. Then Reserve and Growth cost nothing.
func (b *Budget) Limit() int64 { return b.limit }

// Reserve makes sure that n bytes can be written under the limit, removing what can be removed. release is called when the bytes are where they
// stay, or have been given up. Where there is not enough room that is api.Exhausted, and says what holds it.
//
// The caller must have a [Lease] on what it counts on, or that may be removed, and must not hold [Stores.Lock]. A file that is gone on with is reserved
// whole: what is in it already does not count while it is locked.
func (b *Budget) Reserve(ctx context.Context, n int64) (release func(), err error) {
	if b.limit == 0 {
		return func() {}, nil
	}
	if n < 0 {
		return nil, api.Errorf(api.InvalidArgument, "a reservation of %d bytes", n)
	}
	n = (min(n, maxReserve)/blockSize + 1) * blockSize
	b.mu.Lock()
	defer b.mu.Unlock()
	l, err := b.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if err := b.fit(ctx, n); err != nil {
		return nil, err
	}
	if err := b.write(b.reserved + n); err != nil {
		return nil, err
	}
	var once sync.Once
	return func() { once.Do(func() { b.giveBack(n) }) }, nil
}

// giveBack ends a reservation. A failure leaves a sum that is too large, which ends with the process.
func (b *Budget) giveBack(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, err := b.lock(context.Background())
	if err != nil {
		return
	}
	defer l.Release()
	if led, ok := b.s.ledger(); ok {
		led.Used += n
		b.s.putLedger(led)
	}
	_ = b.write(b.reserved - n)
}

// Close gives all back.
func (b *Budget) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		return
	}
	os.Remove(b.path)
	b.file.Release()
	b.file = nil
}

func (b *Budget) lock(ctx context.Context) (*lock.Lock, error) {
	dir := filepath.Join(b.s.Root, reserveDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return within(ctx, func() (*lock.Lock, error) { return lock.Take(filepath.Join(dir, ".lock")) })
}

// write says in reserve/ID what is reserved.
func (b *Budget) write(n int64) (err error) {
	if b.file == nil {
		b.path = filepath.Join(b.s.Root, reserveDir, id.New())
		if b.file, err = lock.Take(b.path); err != nil {
			return err
		}
	}
	// One write of always as many bytes: whoever reads sees it whole.
	text := strconv.FormatInt(n, 10)
	text = strings.Repeat("0", 20-len(text)) + text + "\n"
	if _, err = b.file.File().WriteAt([]byte(text), 0); err != nil {
		return api.Errorf(api.Exhausted, "reserving space in %s: %w", b.s.Root, err)
	}
	b.reserved = n
	return nil
}

// fit makes room for n bytes more.
func (b *Budget) fit(ctx context.Context, n int64) error {
	held, died, err := b.s.held()
	if err != nil {
		return err
	}
	led, ok := b.s.ledger()
	if ok && !died && led.Used+held+n <= b.limit {
		return nil
	}
	for try := 0; ; try++ {
		u, err := b.s.Usage(ctx)
		if err != nil {
			return err
		}
		used := u.Total - b.s.inFlight(u)
		b.s.putLedger(ledger{Used: used, At: time.Now()})
		short := used + held + n - b.limit
		if short <= 0 {
			return nil
		}
		if try == 2 {
			return api.Errorf(api.Exhausted, "the store in %s may take %d bytes (`brig system limit`), and other processes fill it as fast as room is made: try again", b.s.Root, b.limit)
		}
		if err := b.s.reclaim(ctx, u, short, request{b.limit, used, held, n}); err != nil {
			return err
		}
	}
}

// held is what all processes have reserved. died: one of them is dead, and what it had written is reserved no more.
func (s Stores) held() (sum int64, died bool, err error) {
	names, err := readNames(filepath.Join(s.Root, reserveDir))
	if err != nil {
		return 0, false, err
	}
	for _, name := range names {
		if !isHold(name) {
			continue
		}
		path := filepath.Join(s.Root, reserveDir, name)
		if !lock.Held(path) {
			os.Remove(path)
			died = true
			continue
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, false, err
		}
		n, err := parseHold(b)
		if err != nil {
			return 0, false, api.Errorf(api.Corrupt, "%s: %w; it goes with its process", path, err)
		}
		sum += n
	}
	return sum, died, nil
}

// parseHold reads what is reserved. An empty file is being made.
func parseHold(b []byte) (int64, error) {
	text := string(bytes.TrimSpace(b))
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a reservation", text)
	}
	return n, nil
}

func isHold(name string) bool { return id.Valid(name) }

type ledger struct {
	Used int64     `json:"used"`
	At   time.Time `json:"at"` // of the measurement
}

// ledger reads what was measured, unless that is too long ago or cannot be read.
func (s Stores) ledger() (led ledger, ok bool) {
	b, err := os.ReadFile(filepath.Join(s.Root, reserveDir, ledgerFile))
	if err != nil || json.Unmarshal(b, &led) != nil || led.Used < 0 {
		return led, false
	}
	age := time.Since(led.At)
	return led, age >= 0 && age < ledgerAge
}

// putLedger writes the ledger down. Without it the next reservation measures again.
func (s Stores) putLedger(led ledger) {
	path := filepath.Join(s.Root, reserveDir, ledgerFile)
	b, err := json.Marshal(led)
	if err != nil || atomicfile.Write(path, b, 0o600, atomicfile.Volatile) != nil {
		os.Remove(path)
	}
}

// Growth reserves for what becomes as large as it becomes: files that are being unpacked.
type Growth struct {
	b   *Budget
	ctx context.Context

	mu         sync.Mutex // guards what follows
	used, have int64
	releases   []func()
}

// Growth begins with nothing reserved.
func (b *Budget) Growth(ctx context.Context) *Growth { return &Growth{b: b, ctx: ctx} }

// Add is called before n bytes more are written: bytes that the disk will give, so each file counts as whole blocks of 4 KiB, and a folder as one.
// It reserves some in advance. See [Budget.Reserve].
func (g *Growth) Add(n int64) error {
	if g.b.limit == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	missing := g.used + n - g.have
	if missing > 0 {
		step := max(missing, min(max(g.b.limit/64, minStep), maxStep))
		release, err := g.b.Reserve(g.ctx, step)
		if errors.Is(err, api.Exhausted) && step > missing {
			step = missing
			release, err = g.b.Reserve(g.ctx, step)
		}
		if err != nil {
			return err
		}
		g.have += step
		g.releases = append(g.releases, release)
	}
	g.used += n
	return nil
}

// Release gives back what was reserved. It may be called again.
func (g *Growth) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, release := range g.releases {
		release()
	}
	g.releases, g.used, g.have = nil, 0, 0
}
