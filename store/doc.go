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
// A Store is safe for concurrent use. Inside the closure of a write only the transaction given may be used: another write
// of the same store might wait for itself. Reads have connections of their own, see a snapshot, and neither wait for writes
// nor hold them up.
//
// On SQLite, writes that come together share one transaction and one sync, each behind a savepoint. On PostgreSQL they run
// side by side, each in a transaction of its own, in one process or on many nodes; a closure is run again if another was
// in its way.
//
// There every statement sees what is committed when it begins, and what a write decides on is locked as it is read, in
// this order, so that no two writes each have what the other waits for (those that do all the same are found by the
// database, and one is run again):
//
//  1. the stream of blocks, by who applies or drops blocks; the pair of payer and payee, by who writes a gate's purchases
//  2. an asset's schedules: shared by who relies on them, alone by who changes them
//  3. cycles, by asset and start: shared by admissions and notes, alone by who moves them, so that freezing a cycle and
//     admitting to it exclude each other
//  4. accounts, by asset and owner. A payer's account is the lock of all that is its own in the asset: its guarantees, their
//     notes and their sum. There is no lock between payers
//  5. balances that are nobody's, calls, settlements
//
// A row that is not there cannot be locked. Whoever read that it is not inserts it, and if somebody else was faster the
// unique key says so and the write is run again.
//
// Several processes may open one database. [Exclusive], [Store.Alone] and [Store.Lead] are for what must be done by one of
// them: on SQLite by a lock on a file, which ends with its process; on PostgreSQL by a row with a holder and a time by the
// database's clock, which is renewed while it is held, and whose holder stops before the time is over.
//
// # Databases
//
// SQLite is in WAL mode, so its folder must be on a local disk. PostgreSQL is 15 or newer, connected to directly: prepared
// statements and what a session was told do not survive a pooler that changes sessions between transactions. What either
// does in its own way sits behind one value, the dialect.
//
// The steps of the schema are one list for both, in the folder migrations. They run in one transaction under a lock, so of
// several nodes that start together one does it. A step only adds what the program before it can ignore (a table, an
// index, a column with a default), since nodes of that program go on writing until they are replaced; it takes away what
// only programs before that one used. A schema newer than the program is refused when a node starts.
package store
