// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CycleId} from "./CycleId.sol";
import {IClearingHouse, IVault, Schedule} from "./Interfaces.sol";
import {Positions} from "./Positions.sol";

/// @title ClearingHouse
/// @notice Takes the net positions of each cycle, seals them, and pays creditors when they can no longer be disputed.
/// Totals and roots are computed here from the posted bytes, never declared. All money is the Vault's: posting moves
/// book money only, and calls neither a token nor a participant.
contract ClearingHouse is IClearingHouse {
    /// Stored states. A cycle that was not sealed by its deadline has failed whatever is stored: see phase.
    enum Status {
        None,
        Posting,
        Sealed,
        Final,
        Voided,
        Failed
    }

    /// Five slots. A claim in a final cycle reads the first, the third and the last.
    struct Cycle {
        address asset;
        uint32 seq; // the cycle's bit in the flags of its participants
        uint40 periodStart;
        uint8 generation;
        Status status;
        // the last participant while posting, what debtors paid in once sealed
        uint160 lastOrPaidIn;
        uint40 since; // when sealed or voided
        uint24 participants;
        uint8 h;
        bool filled; // the bond stood in for a debtor
        bytes32 r;
        bytes32 q;
        uint112 total; // Σ debits
        uint112 claimed; // Σ credits while posting, what creditors took once sealed
        uint16 demands; // open demands, which hold up finality
    }

    struct Chunk {
        bytes32 hash;
        bytes32 r; // roots of chunk 0 are kept in the cycle
        bytes32 q;
    }

    /// The least bond with which a cycle may be sealed: max(floor, perParticipant × participants, shareBps of the total).
    /// perParticipant is three times what 8,000 gas may cost, in the asset.
    struct BondRule {
        uint112 floor;
        uint80 perParticipant;
        uint16 shareBps;
        uint40 from;
    }

    /// What getCycle returns to 4Mica's clients.
    struct CycleView {
        address asset;
        bytes32 merkleRoot;
        uint256 totalNetDebit;
        uint256 totalNetCredit;
        uint256 totalPaidIn;
        uint256 totalClaimedOut;
        uint256 totalDefaultCovered;
        uint256 totalResolvedDebit;
        uint64 paymentSubmissionDeadline;
        uint64 paymentFinalityDeadline;
        uint8 status;
        bool exists;
    }

    uint256 private constant PAID = 0;
    uint256 private constant CLAIMED = 1;
    uint256 private constant DEFAULTED = 2;
    uint8 private constant DEBTOR = 0;
    uint8 private constant CREDITOR = 1;
    uint8 private constant MAX_HEIGHT = 10;

    IVault public immutable vault;
    address public immutable disputes;
    /// @notice May replace the operator after recoveryDelay, and do nothing else.
    address public immutable recovery;
    /// @notice Shorter than every challenge window.
    uint64 public immutable recoveryDelay;
    uint64 private immutable withdrawalDelay;

    /// @notice Posts and seals cycles, holds the bond, announces parameters.
    address public operator;
    /// @notice Who becomes operator, and when it may.
    address public nextOperator;
    uint64 public nextOperatorAt;

    mapping(bytes32 cycleId => Cycle) private cycles;
    mapping(bytes32 key => Chunk) private chunks;
    mapping(bytes32 key => uint256) private flags;
    mapping(bytes32 key => uint256) private released;
    mapping(bytes32 key => mapping(address debtor => uint256)) private fills;
    mapping(address asset => uint32) private sequence;
    mapping(address asset => Schedule[]) private schedules;
    mapping(address asset => BondRule[2]) private bondRules;

    event CycleCommitted(
        bytes32 indexed cycleId,
        address indexed asset,
        bytes32 merkleRoot,
        uint256 totalNetDebit,
        uint256 totalNetCredit,
        uint64 paymentSubmissionDeadline,
        uint64 paymentFinalityDeadline
    );
    event DebtorPaid(bytes32 indexed cycleId, address indexed debtor, uint256 amount);
    event CreditorClaimed(bytes32 indexed cycleId, address indexed creditor, uint256 amount);
    event DebtorDefaulted(bytes32 indexed cycleId, address indexed debtor, uint256 amount);
    event DefaultCovered(bytes32 indexed cycleId, address indexed debtor, uint256 amount);
    event CycleFinalized(bytes32 indexed cycleId);
    event PositionsPosted(
        bytes32 indexed cycleId, uint64 generation, uint64 chunk, bytes32 chunkHash, uint256 count
    );
    event DebtFilled(bytes32 indexed cycleId, address indexed debtor, uint256 amount);
    event ChunkReleased(bytes32 indexed cycleId, uint64 generation, uint64 chunk);
    event CycleVoided(bytes32 indexed cycleId, uint64 generation, bool failed);
    event ScheduleSet(
        address indexed asset,
        uint64 fromStart,
        uint64 length,
        uint64 cutoff,
        uint64 post,
        uint64 challenge,
        uint64 repost,
        uint64 redeem
    );
    event BondRuleSet(address indexed asset, uint256 floor, uint256 perParticipant, uint256 shareBps, uint64 from);
    event OperatorProposed(address indexed operator, uint64 from);
    event OperatorReplaced(address indexed operator);

    error AmountZero();
    error CycleAlreadyCommitted(bytes32 cycleId);
    error CycleNotFound(bytes32 cycleId);
    error InvalidCycleStatus(bytes32 cycleId, uint8 status);
    error InvalidDeadline();
    error InvalidProof();
    error AlreadyPaid(bytes32 cycleId, address debtor);
    error AlreadyClaimed(bytes32 cycleId, address creditor);
    error AlreadyDefaulted(bytes32 cycleId, address debtor);
    error PaymentFinalityPending(uint64 deadline);
    error NotAllowed(address caller);
    error NoSchedule(address asset, uint64 periodStart);
    error ScheduleInvalid();
    error BondRuleInvalid();
    error PostingNotOpen(uint64 from);
    error PostingClosed(uint64 deadline);
    error ChunkOutOfTurn(uint64 generation, uint64 chunk);
    error ChunkHeightInvalid();
    error TotalsDiffer(uint256 debit, uint256 credit);
    error BondTooLow(uint256 minimum, uint256 bond);
    error NotReleasable(bytes32 cycleId, uint64 generation);
    error UnknownChunk();
    error AlreadyReleased();
    error SettledByChoice(address debtor);
    error LengthsDiffer();
    error TooManyDemands();
    error AddressMismatch();

    modifier onlyOperator() {
        if (msg.sender != operator) revert NotAllowed(msg.sender);
        _;
    }

    modifier onlyDisputes() {
        if (msg.sender != disputes) revert NotAllowed(msg.sender);
        _;
    }

    /// @param vault_ the Vault, already deployed and naming this contract's address.
    /// @param operator_ posts and seals cycles.
    /// @param recovery_ may replace the operator; zero for nobody.
    /// @param recoveryDelay_ seconds between naming a new operator and its start.
    constructor(address vault_, address operator_, address recovery_, uint64 recoveryDelay_) {
        vault = IVault(vault_);
        if (vault.clearingHouse() != address(this)) revert AddressMismatch();
        disputes = vault.disputes();
        withdrawalDelay = vault.withdrawalGracePeriod();
        operator = operator_;
        recovery = recovery_;
        recoveryDelay = recoveryDelay_;
        emit OperatorReplaced(operator_);
    }

    // -------------------------------------------------------------------- operator key

    /// @notice Names a new operator, who may take over after recoveryDelay. Naming another replaces it.
    function proposeOperator(address next) external {
        if (msg.sender != recovery) revert NotAllowed(msg.sender);
        nextOperator = next;
        nextOperatorAt = uint64(block.timestamp) + recoveryDelay;
        emit OperatorProposed(next, nextOperatorAt);
    }

    /// @notice Makes the named operator the operator, once its delay has passed. Anyone may call.
    function replaceOperator() external {
        if (nextOperatorAt == 0 || block.timestamp < nextOperatorAt) revert NotAllowed(msg.sender);
        operator = nextOperator;
        nextOperatorAt = 0;
        emit OperatorReplaced(operator);
    }

    // ------------------------------------------------------------------------ parameters

    /// @notice Sets an asset's first schedule, with effect at once, or announces the next one, whose first cycle starts
    /// where one of the present schedule would, later than a withdrawal delay from now. One announcement at a time.
    function setSchedule(address asset, Schedule calldata next) external onlyOperator {
        uint256 w = withdrawalDelay;
        // What an obligation admitted just before a withdrawal request may need, and an eighth of W to spare.
        uint256 longest = 4 * uint256(next.length) + next.cutoff + next.post + 2 * uint256(next.challenge) + next.repost
            + next.redeem + w / 8;
        if (
            next.length == 0 || next.post == 0 || next.repost == 0 || next.redeem == 0
                || next.challenge <= recoveryDelay || longest > w || next.fromStart > block.timestamp + 2 * w
        ) revert ScheduleInvalid();
        Schedule[] storage list = schedules[asset];
        if (list.length != 0) {
            Schedule storage present = list[list.length - 1];
            if (
                next.fromStart <= block.timestamp + w || present.fromStart > block.timestamp
                    || (next.fromStart - present.fromStart) % present.length != 0
            ) revert ScheduleInvalid();
        }
        list.push(next);
        emit ScheduleSet(
            asset, next.fromStart, next.length, next.cutoff, next.post, next.challenge, next.repost, next.redeem
        );
    }

    /// @notice Sets an asset's bond rule: the first at once, a later one for seals after a withdrawal delay and a cycle.
    function setBondRule(address asset, uint112 floor, uint80 perParticipant, uint16 shareBps) external onlyOperator {
        if (shareBps > 10_000) revert BondRuleInvalid();
        BondRule[2] storage rules = bondRules[asset];
        uint256 from = block.timestamp;
        if (rules[1].from != 0) {
            if (rules[1].from > block.timestamp) revert BondRuleInvalid(); // one announcement at a time
            uint256 versions = schedules[asset].length;
            from += withdrawalDelay + (versions == 0 ? 0 : schedules[asset][versions - 1].length);
            rules[0] = rules[1];
        }
        rules[1] = BondRule(floor, perParticipant, shareBps, uint40(from));
        emit BondRuleSet(asset, floor, perParticipant, shareBps, uint64(from));
    }

    /// @notice The least bond with which a cycle of that many participants and that total may be sealed now.
    function minimumBond(address asset, uint256 participants, uint256 total) public view returns (uint256 least) {
        BondRule memory rule = _bondRule(asset);
        least = rule.floor;
        uint256 other = participants * rule.perParticipant;
        if (other > least) least = other;
        other = total * rule.shareBps / 10_000;
        if (other > least) least = other;
    }

    // ------------------------------------------------------------------------------ post

    /// @notice Posts one chunk of a cycle's positions: takes every net debit from its debtor's collateral and advances
    /// both roots and both sums. Generation and chunk name what is being posted, so that a chunk which is sent twice,
    /// or overtakes the one before it, changes nothing.
    /// @param h the chunk's height: chunks hold 2^h positions, and a shorter one closes the posting.
    function postPositions(
        address asset,
        uint64 periodStart,
        uint64 generation,
        uint64 chunk,
        uint8 h,
        bytes calldata positions
    ) external onlyOperator {
        Schedule memory s = _schedule(asset, periodStart);
        bytes32 id = CycleId.derive(asset, periodStart);
        Cycle storage c = cycles[id];
        uint256 opens = uint256(periodStart) + s.length + s.cutoff;
        if (block.timestamp < opens) revert PostingNotOpen(uint64(opens));
        Status status = c.status;
        if (status == Status.Sealed || status == Status.Final) revert CycleAlreadyCommitted(id);
        if (status == Status.Failed) revert InvalidCycleStatus(id, uint8(status));
        uint64 deadline = _postDeadline(c, s, periodStart);
        if (block.timestamp > deadline) revert PostingClosed(deadline);

        uint256 before = c.participants;
        if (generation != c.generation || before != uint256(chunk) << h) revert ChunkOutOfTurn(generation, chunk);
        if (before == 0) {
            if (h > MAX_HEIGHT) revert ChunkHeightInvalid();
            if (status == Status.None) {
                c.asset = asset;
                c.periodStart = uint40(periodStart);
                c.seq = sequence[asset]++;
            }
            c.status = Status.Posting;
            c.h = h;
        } else if (h != c.h) {
            revert ChunkHeightInvalid();
        }
        uint256 count = positions.length / Positions.SIZE;
        if (count > 1 << h) revert ChunkHeightInvalid();

        // A cycle's only chunk is folded to its own height; a full one has height h anyway.
        Positions.Folded memory folded = Positions.fold(
            id, asset, before == 0 ? address(0) : address(c.lastOrPaidIn), positions, before == 0 ? 0 : h
        );
        bytes32 hash = Positions.hash(positions);
        Chunk storage stored = chunks[_chunkKey(id, generation, chunk)];
        stored.hash = hash;
        if (before == 0) {
            (c.r, c.q) = (folded.r, folded.q);
            (c.total, c.claimed) = (0, 0);
        } else {
            (stored.r, stored.q) = (folded.r, folded.q);
        }
        c.lastOrPaidIn = uint160(folded.last);
        if (before + count > type(uint24).max) revert Positions.PositionsMalformed();
        c.participants = uint24(before + count);
        folded.debit += c.total;
        folded.credit += c.claimed;
        if (folded.debit > type(uint112).max || folded.credit > type(uint112).max) revert Positions.PositionsMalformed();
        emit PositionsPosted(id, generation, chunk, hash, count);
        bool debtors = folded.debit != c.total;
        (c.total, c.claimed) = (uint112(folded.debit), uint112(folded.credit));
        if (debtors) _take(id, c, asset, periodStart, positions);
    }

    function _take(bytes32 id, Cycle storage c, address asset, uint64 periodStart, bytes calldata positions) private {
        uint256[] memory short = vault.takeDebits(asset, periodStart, positions);
        if (short.length == 0) return;
        c.filled = true;
        mapping(address => uint256) storage book = fills[_fillKey(id, c.generation)];
        for (uint256 i; i < short.length; ++i) {
            uint256 entry = short[i];
            address debtor;
            assembly ("memory-safe") {
                debtor := shr(96, calldataload(add(positions.offset, mul(shr(112, entry), 69))))
            }
            uint256 amount = uint112(entry);
            book[debtor] = amount;
            emit DebtFilled(id, debtor, amount);
        }
    }

    /// @notice Seals a posted cycle. Root and totals must equal the computed ones. The two deadlines must lie in
    /// (now, now + challenge + post] and are otherwise ignored: both become now + challenge.
    function commitCycle(
        bytes32 cycleId,
        address asset,
        bytes32 merkleRoot,
        uint256 totalNetDebit,
        uint256 totalNetCredit,
        uint64 paymentSubmissionDeadline,
        uint64 paymentFinalityDeadline
    ) external onlyOperator {
        Cycle storage c = cycles[cycleId];
        Status status = c.status;
        if (status == Status.Sealed || status == Status.Final) revert CycleAlreadyCommitted(cycleId);
        if (status != Status.Posting || c.asset != asset) revert CycleNotFound(cycleId);
        Schedule memory s = _schedule(asset, c.periodStart);
        {
            uint64 closes = _postDeadline(c, s, c.periodStart);
            if (block.timestamp > closes) revert PostingClosed(closes);
        }
        uint256 latest = block.timestamp + s.challenge + s.post;
        if (
            paymentSubmissionDeadline <= block.timestamp || paymentFinalityDeadline < paymentSubmissionDeadline
                || paymentFinalityDeadline > latest
        ) revert InvalidDeadline();

        uint256 total = c.total;
        if (total != c.claimed || total != totalNetDebit || total != totalNetCredit) {
            revert TotalsDiffer(total, c.claimed);
        }
        if (uint256(c.participants) > 1 << c.h) _foldChunks(cycleId, c);
        if (c.r != merkleRoot) revert InvalidProof();
        {
            uint256 least = minimumBond(asset, c.participants, total);
            uint256 held = least == 0 ? 0 : vault.bond(asset);
            if (held < least) revert BondTooLow(least, held);
        }
        c.status = Status.Sealed;
        c.since = uint40(block.timestamp);
        c.lastOrPaidIn = 0;
        c.claimed = 0;
        uint64 deadline = uint64(block.timestamp) + s.challenge;
        emit CycleCommitted(cycleId, asset, merkleRoot, total, total, deadline, deadline);
    }

    function _foldChunks(bytes32 id, Cycle storage c) private {
        uint256 n = (uint256(c.participants) + (1 << c.h) - 1) >> c.h;
        bytes32[] memory r = new bytes32[](n + 1); // a word to spare, see foldAt
        bytes32[] memory q = new bytes32[](n + 1);
        (r[0], q[0]) = (c.r, c.q);
        for (uint256 i = 1; i < n; ++i) {
            Chunk storage chunk = chunks[_chunkKey(id, c.generation, uint64(i))];
            (r[i], q[i]) = (chunk.r, chunk.q);
        }
        uint256 rAt;
        uint256 qAt;
        assembly ("memory-safe") {
            rAt := add(r, 32)
            qAt := add(q, 32)
        }
        (c.r, c.q) = Positions.foldAt(rAt, qAt, n, 0);
    }

    // -------------------------------------------------------------------------------- pay

    /// @notice Pays the caller's net debit of a sealed or final cycle, which gives back the collateral that posting
    /// took. Possible until the caller is marked as defaulted. The Vault pulls a token through its own allowance.
    function payNetDebit(bytes32 cycleId, uint256 amount, bytes32[] calldata proof) external payable {
        Cycle storage c = cycles[cycleId];
        _requireSealed(cycleId, c);
        (address asset, uint256 seq, uint256 generation) = _head(c);
        _requirePosition(cycleId, c.r, asset, msg.sender, amount, DEBTOR, proof);
        if (_flag(asset, seq, generation, DEFAULTED, msg.sender)) revert AlreadyDefaulted(cycleId, msg.sender);
        if (!_setFlag(asset, seq, generation, PAID, msg.sender)) revert AlreadyPaid(cycleId, msg.sender);
        c.lastOrPaidIn += uint160(amount);
        uint256 filled;
        if (c.filled) {
            mapping(address => uint256) storage book = fills[_fillKey(cycleId, uint64(generation))];
            filled = book[msg.sender];
            if (filled != 0) delete book[msg.sender];
        }
        emit DebtorPaid(cycleId, msg.sender, amount);
        vault.pullDebit{value: msg.value}(asset, msg.sender, amount, filled);
    }

    /// @notice Marks an unpaid debtor of a final cycle. Moves no money: creditors have been funded since the posting.
    function markDefaulted(bytes32 cycleId, address debtor, uint256 amount, bytes32[] calldata proof) external {
        Cycle storage c = cycles[cycleId];
        _requireFinal(cycleId, c);
        (address asset, uint256 seq, uint256 generation) = _head(c);
        _requirePosition(cycleId, c.r, asset, debtor, amount, DEBTOR, proof);
        if (_flag(asset, seq, generation, PAID, debtor)) revert AlreadyPaid(cycleId, debtor);
        if (vault.autoSettle(debtor)) revert SettledByChoice(debtor);
        if (!_setFlag(asset, seq, generation, DEFAULTED, debtor)) revert AlreadyDefaulted(cycleId, debtor);
        emit DebtorDefaulted(cycleId, debtor, amount);
        emit DefaultCovered(cycleId, debtor, amount);
    }

    // ------------------------------------------------------------------------------ claim

    /// @notice Pays the caller's net credit of a final cycle to the caller.
    function claimNetCredit(bytes32 cycleId, uint256 amount, bytes32[] calldata proof) external {
        vault.payOut(_claim(cycleId, msg.sender, amount, proof), msg.sender, amount);
    }

    /// @notice Pays the caller's net credits of several final cycles to an address it names, in one transfer for each run
    /// of cycles of one asset.
    function claimMany(
        bytes32[] calldata cycleIds,
        uint256[] calldata amounts,
        bytes32[][] calldata proofs,
        address to
    ) external {
        if (cycleIds.length != amounts.length || cycleIds.length != proofs.length) revert LengthsDiffer();
        address asset;
        uint256 sum;
        unchecked { // each amount is proven to be part of a cycle's total, which has 112 bits
            for (uint256 i; i < cycleIds.length; ++i) {
                address a = _claim(cycleIds[i], msg.sender, amounts[i], proofs[i]);
                if (a != asset && sum != 0) {
                    vault.payOut(asset, to, sum);
                    sum = 0;
                }
                asset = a;
                sum += amounts[i];
            }
        }
        if (sum != 0) vault.payOut(asset, to, sum);
    }

    /// @notice Turns a creditor's net credit of a final cycle into its collateral. Anyone may call.
    function claimToVault(bytes32 cycleId, address creditor, uint256 amount, bytes32[] calldata proof) external {
        vault.credit(_claim(cycleId, creditor, amount, proof), creditor, amount);
    }

    function _claim(bytes32 cycleId, address creditor, uint256 amount, bytes32[] calldata proof)
        private
        returns (address)
    {
        Cycle storage c = cycles[cycleId];
        (address asset, uint256 seq, uint256 generation) = _head(c);
        _requireFinal(cycleId, c);
        _requirePosition(cycleId, c.r, asset, creditor, amount, CREDITOR, proof);
        if (!_setFlag(asset, seq, generation, CLAIMED, creditor)) revert AlreadyClaimed(cycleId, creditor);
        unchecked {
            c.claimed += uint112(amount); // credits of a sealed cycle add up to its total
        }
        emit CreditorClaimed(cycleId, creditor, amount);
        return asset;
    }

    /// @notice Makes a sealed cycle final when its challenge window is over and no demand is open. Anyone may call, and
    /// the first claim or mark does it too.
    function finalizeCycle(bytes32 cycleId) external {
        Cycle storage c = cycles[cycleId];
        if (c.status == Status.Final) revert InvalidCycleStatus(cycleId, 2);
        _requireFinal(cycleId, c);
    }

    /// @notice Part of 4Mica's interface. Refuses always: posting has covered every default already.
    function settleDefaultFromCollateral(bytes32 cycleId, address, uint256, bytes calldata) external payable {
        revert InvalidCycleStatus(cycleId, _stockStatus(cycles[cycleId].status));
    }

    // ---------------------------------------------------------------------------- release

    /// @notice Gives back what a chunk took, when its generation was voided or was not sealed by its deadline. What the
    /// bond had filled returns to the bond. Anyone may call, once for a chunk, with the posted bytes, and is paid for the
    /// gas out of the bond: a third of perParticipant for each debtor.
    function release(bytes32 cycleId, uint64 generation, uint64 chunk, bytes calldata positions) external {
        Cycle storage c = cycles[cycleId];
        if (
            generation > c.generation
                || (generation == c.generation
                    && !(c.status == Status.Posting
                        && block.timestamp > _postDeadline(c, _schedule(c.asset, c.periodStart), c.periodStart)))
        ) revert NotReleasable(cycleId, generation);
        if (chunks[_chunkKey(cycleId, generation, chunk)].hash != Positions.hash(positions)) revert UnknownChunk();
        bytes32 key = _chunkKey(cycleId, generation, chunk >> 8);
        uint256 bit = 1 << (chunk & 255);
        if (released[key] & bit != 0) revert AlreadyReleased();
        released[key] |= bit;
        emit ChunkReleased(cycleId, generation, chunk);

        uint256[] memory given = c.filled ? _fillsOf(cycleId, generation, positions) : new uint256[](0);
        uint256 debtors = vault.returnDebits(c.asset, positions, given);
        uint256 gasMoney = debtors * (_bondRule(c.asset).perParticipant / 3);
        if (gasMoney != 0) vault.reward(c.asset, msg.sender, gasMoney);
    }

    /// The fills of a chunk that the bond still stands for, in the form of Vault.returnDebits.
    function _fillsOf(bytes32 id, uint64 generation, bytes calldata positions)
        private
        view
        returns (uint256[] memory given)
    {
        mapping(address => uint256) storage book = fills[_fillKey(id, generation)];
        given = new uint256[](positions.length / Positions.SIZE);
        uint256 count;
        for (uint256 offset; offset < positions.length; offset += Positions.SIZE) {
            if (positions[offset + 20] != 0) continue;
            uint256 amount = book[address(bytes20(positions[offset:offset + 20]))];
            if (amount != 0) given[count++] = (offset / Positions.SIZE) << 112 | amount;
        }
        assembly ("memory-safe") {
            mstore(given, count)
        }
    }

    // ------------------------------------------------------------------ hooks of Disputes

    /// @notice Voids a sealed cycle. After the first time it may be posted once more, until a deadline that starts now;
    /// the second time it has failed.
    function voidCycle(bytes32 cycleId) external onlyDisputes {
        Cycle storage c = cycles[cycleId];
        if (c.status != Status.Sealed) revert InvalidCycleStatus(cycleId, uint8(c.status));
        if (c.demands == 0 && block.timestamp > _finality(c)) revert InvalidDeadline();
        bool failed = c.generation != 0;
        emit CycleVoided(cycleId, c.generation, failed);
        c.status = failed ? Status.Failed : Status.Voided;
        c.since = uint40(block.timestamp);
        c.participants = 0;
        c.demands = 0;
        ++c.generation;
    }

    /// @notice Holds up finality of a sealed cycle until closeDemand, while its challenge window is open.
    function openDemand(bytes32 cycleId) external onlyDisputes {
        Cycle storage c = cycles[cycleId];
        if (c.status != Status.Sealed) revert InvalidCycleStatus(cycleId, uint8(c.status));
        if (block.timestamp > _finality(c)) revert InvalidDeadline();
        if (c.demands == type(uint16).max) revert TooManyDemands();
        ++c.demands;
    }

    function closeDemand(bytes32 cycleId) external onlyDisputes {
        Cycle storage c = cycles[cycleId];
        if (c.demands == 0) revert InvalidCycleStatus(cycleId, uint8(c.status));
        --c.demands;
    }

    // ------------------------------------------------------------------------------ views

    /// @notice The id of the cycle of an asset that starts at periodStart.
    function cycleIdOf(address asset, uint64 periodStart) external pure returns (bytes32) {
        return CycleId.derive(asset, periodStart);
    }

    /// @notice The state of a cycle at this moment: None, Posting, Sealed, Final, Voided or Failed. A cycle that was not
    /// sealed by its deadline has failed, also if nothing was ever posted.
    function phase(address asset, uint64 periodStart) external view returns (Status) {
        Schedule memory s = _schedule(asset, periodStart);
        Cycle storage c = cycles[CycleId.derive(asset, periodStart)];
        Status status = c.status;
        if (status == Status.Sealed || status == Status.Final || status == Status.Failed) return status;
        return block.timestamp > _postDeadline(c, s, periodStart) ? Status.Failed : status;
    }

    /// @notice A cycle as this contract keeps it.
    function cycle(bytes32 cycleId) external view returns (Cycle memory) {
        return cycles[cycleId];
    }

    /// @notice The hash of a posted chunk, zero if there is none, and whether it has been released.
    function chunkOf(bytes32 cycleId, uint64 generation, uint64 chunk)
        external
        view
        returns (bytes32 hash, bool isReleased)
    {
        hash = chunks[_chunkKey(cycleId, generation, chunk)].hash;
        isReleased = released[_chunkKey(cycleId, generation, chunk >> 8)] >> (chunk & 255) & 1 != 0;
    }

    /// @notice What the bond still stands in for a debtor.
    function fillOf(bytes32 cycleId, uint64 generation, address debtor) external view returns (uint256) {
        return fills[_fillKey(cycleId, generation)][debtor];
    }

    /// @notice A cycle as 4Mica's clients read it. Status 1 from the seal, 2 when final, never 3.
    function getCycle(bytes32 cycleId) external view returns (CycleView memory v) {
        Cycle storage c = cycles[cycleId];
        v.asset = c.asset;
        v.exists = c.status == Status.Sealed || c.status == Status.Final;
        if (!v.exists) return v;
        v.merkleRoot = c.r;
        v.totalNetDebit = v.totalNetCredit = c.total;
        v.totalPaidIn = c.lastOrPaidIn;
        v.totalClaimedOut = c.claimed;
        if (c.status == Status.Final) v.totalDefaultCovered = v.totalNetDebit - v.totalPaidIn;
        v.totalResolvedDebit = v.totalPaidIn + v.totalDefaultCovered;
        v.paymentSubmissionDeadline = v.paymentFinalityDeadline = _finality(c);
        v.status = _stockStatus(c.status);
    }

    /// @notice What a participant has done in a cycle. Amounts are not kept on chain and read as zero: the positions of
    /// PositionsPosted hold them.
    function getParticipantState(bytes32 cycleId, address participant)
        external
        view
        returns (uint256 netDebit, uint256 netCredit, bool paid, bool claimed, bool defaulted)
    {
        Cycle storage c = cycles[cycleId];
        if (c.status != Status.Sealed && c.status != Status.Final) return (0, 0, false, false, false);
        (address asset, uint256 seq, uint256 generation) = _head(c);
        paid = _flag(asset, seq, generation, PAID, participant);
        claimed = _flag(asset, seq, generation, CLAIMED, participant);
        defaulted = _flag(asset, seq, generation, DEFAULTED, participant);
    }

    /// @notice The leaf of R for a position.
    function participantLeaf(bytes32 cycleId, address asset, address participant, uint256 amount, uint8 role)
        public
        view
        returns (bytes32)
    {
        return Positions.leafOf(cycleId, asset, participant, amount, role);
    }

    /// @notice The schedule of the cycle of an asset that starts at periodStart; refuses what is no start.
    function scheduleOf(address asset, uint64 periodStart) external view returns (Schedule memory) {
        return _schedule(asset, periodStart);
    }

    /// @notice All schedules of an asset, the oldest first.
    function schedulesOf(address asset) external view returns (Schedule[] memory) {
        return schedules[asset];
    }

    /// @notice The start of the next cycle after now; zero for an asset without a schedule.
    function nextStart(address asset) external view returns (uint64) {
        Schedule[] storage list = schedules[asset];
        uint256 i = list.length;
        if (i == 0) return 0;
        uint64 t = uint64(block.timestamp);
        while (i > 1 && list[i - 1].fromStart > t) --i;
        Schedule storage s = list[i - 1];
        if (s.fromStart > t) return s.fromStart;
        return s.fromStart + ((t - s.fromStart) / s.length + 1) * s.length;
    }

    /// @notice The latest moment at which a cycle that started before the given start may still be posted.
    function lastPost(address asset, uint64 before) external view returns (uint64) {
        Schedule[] storage list = schedules[asset];
        uint256 i = list.length;
        if (i == 0) return 0;
        while (i > 1 && list[i - 1].fromStart >= before) --i;
        Schedule storage s = list[i - 1];
        return before + s.cutoff + s.post + s.challenge + s.repost + withdrawalDelay / 8;
    }

    // ---------------------------------------------------------------------------- private

    function _schedule(address asset, uint64 periodStart) private view returns (Schedule memory s) {
        Schedule[] storage list = schedules[asset];
        for (uint256 i = list.length; i > 0; --i) {
            s = list[i - 1];
            if (periodStart >= s.fromStart) {
                if ((periodStart - s.fromStart) % s.length != 0) break;
                return s;
            }
        }
        revert NoSchedule(asset, periodStart);
    }

    function _bondRule(address asset) private view returns (BondRule memory) {
        BondRule[2] storage rules = bondRules[asset];
        return rules[rules[1].from <= block.timestamp ? 1 : 0];
    }

    function _postDeadline(Cycle storage c, Schedule memory s, uint64 periodStart) private view returns (uint64) {
        if (c.generation == 0) return periodStart + s.length + s.cutoff + s.post;
        return uint64(c.since) + s.repost;
    }

    function _finality(Cycle storage c) private view returns (uint64) {
        return uint64(c.since) + _schedule(c.asset, c.periodStart).challenge;
    }

    function _requireSealed(bytes32 id, Cycle storage c) private view {
        Status status = c.status;
        if (status == Status.Sealed || status == Status.Final) return;
        if (status == Status.None) revert CycleNotFound(id);
        revert InvalidCycleStatus(id, 0);
    }

    function _requireFinal(bytes32 id, Cycle storage c) private {
        if (c.status == Status.Final) return;
        _requireSealed(id, c);
        uint64 deadline = _finality(c);
        if (block.timestamp <= deadline || c.demands != 0) revert PaymentFinalityPending(deadline);
        c.status = Status.Final;
        emit CycleFinalized(id);
    }

    function _requirePosition(
        bytes32 id,
        bytes32 root,
        address asset,
        address participant,
        uint256 amount,
        uint8 role,
        bytes32[] calldata proof
    ) private view {
        if (amount == 0) revert AmountZero();
        bytes32 leaf = participantLeaf(id, asset, participant, amount, role);
        if (!Positions.verify(root, leaf, proof)) revert InvalidProof();
    }

    /// What names a cycle's flags.
    function _head(Cycle storage c) private view returns (address asset, uint256 seq, uint256 generation) {
        return (c.asset, c.seq, c.generation);
    }

    function _flagKey(address asset, uint256 seq, uint256 generation, uint256 kind, address participant)
        private
        pure
        returns (bytes32 key)
    {
        assembly ("memory-safe") { // of abi.encode(kind, asset, participant, generation, seq >> 8)
            let free := mload(0x40)
            mstore(free, kind)
            mstore(add(free, 0x20), asset)
            mstore(add(free, 0x40), participant)
            mstore(add(free, 0x60), generation)
            mstore(add(free, 0x80), shr(8, seq))
            key := keccak256(free, 0xa0)
        }
    }

    function _flag(address asset, uint256 seq, uint256 generation, uint256 kind, address participant)
        private
        view
        returns (bool)
    {
        return flags[_flagKey(asset, seq, generation, kind, participant)] >> (seq & 255) & 1 != 0;
    }

    /// Sets a flag; false if it was set already.
    function _setFlag(address asset, uint256 seq, uint256 generation, uint256 kind, address participant)
        private
        returns (bool)
    {
        bytes32 key = _flagKey(asset, seq, generation, kind, participant);
        uint256 word = flags[key];
        uint256 bit = 1 << (seq & 255);
        if (word & bit != 0) return false;
        flags[key] = word | bit;
        return true;
    }

    function _chunkKey(bytes32 id, uint64 generation, uint64 chunk) private pure returns (bytes32) {
        return keccak256(abi.encode(id, generation, chunk));
    }

    function _fillKey(bytes32 id, uint64 generation) private pure returns (bytes32) {
        return keccak256(abi.encode(id, generation));
    }

    function _stockStatus(Status status) private pure returns (uint8) {
        return status == Status.Sealed ? 1 : status == Status.Final ? 2 : 0;
    }
}
