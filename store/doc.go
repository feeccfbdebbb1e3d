// Package store keeps everything that must survive a crash, in one SQL database: the clearing house's book, the
// purchases of a seller's gate, and the outbox of transactions to send. It holds no rule about money; packages clearing
// and purchase say what the rows mean, and [Store.Clearing], [Store.Purchases] and [Store.Outbox] are their books.
//
// Most callers want [Open] and those three views.
//
// # Invariants
//
// A write that returned nil is on disk: the database syncs at every commit. A write that returned an error left nothing,
// except that the answer to a commit may be lost, as with any database; every write here can be asked for again.
// Columns that must agree are compared before they are written and after they are read, and a row in which they do not
// is an [ErrCorrupt] that names table and key.
//
// # Concurrency
//
// A Store is safe for concurrent use and starts no goroutine of its own. Writes that come together share one
// transaction and one sync, each behind a savepoint. Reads have connections of their own, see a snapshot, and neither
// wait for writes nor hold them up. Inside the closure of a write only the transaction given may be used: another write
// of the same store would wait for itself.
//
// Several processes may open one file. [Exclusive] is for what must run once, such as a clearing house.
//
// # Compatibility
//
// The database is SQLite (in WAL mode, so its folder must be on a local disk). What SQLite does in its own way sits
// behind one value, the dialect, and in the folder of migrations named for it.
package store
