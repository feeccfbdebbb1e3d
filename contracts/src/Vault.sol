// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Bls, G1Point, G2Point} from "./Bls.sol";
import {IClearingHouse, IVault} from "./Interfaces.sol";
import {Money} from "./Money.sol";

/// @title Vault
/// @notice Holds all money: collateral per owner and asset, the operator's bonds, and what posted cycles owe. The zero
/// address stands for the chain's native coin. To 4Mica's clients this contract is Core4Mica.
///
/// The Vault obeys three immutable addresses, each in its own hooks only: the ClearingHouse, Disputes and Redemption. No
/// key can take funds, nothing pauses a withdrawal, and there is no proxy. The guardian can stop new deposits and nothing
/// else.
///
/// Per asset and after every call: token balance ≥ Σ collateral + Σ unpaid credits of posted cycles + Σ redemption pools
/// + bond. Tokens that arrive without a deposit are never counted.
contract Vault is IVault {
    /// One slot per owner and asset. gap is 2^112 − 1 − limit, so that an untouched account has no limit.
    struct Account {
        uint112 collateral;
        uint112 gap;
        bool limitPending;
    }

    /// A lowered limit and the start of the first cycle it acts on.
    struct PendingLimit {
        uint112 gap;
        uint64 fromStart;
    }

    struct Request {
        uint112 amount;
        uint64 timestamp;
    }

    /// A key that signs for an owner from one moment until another.
    struct Signer {
        uint64 from;
        uint64 until;
    }

    struct UserAsset {
        address asset;
        uint256 collateral;
        uint256 withdrawalRequestTimestamp;
        uint256 withdrawalRequestAmount;
    }

    /// depositsEnd 0: never listed; 2^64 − 1: listed; else the time from which deposits are refused.
    struct Listing {
        uint64 depositsEnd;
        bool known;
    }

    /// A BLS key certifies guarantees of cycles with fromStart ≤ start < untilStart.
    struct Key {
        G1Point point;
        uint64 fromStart;
        uint64 untilStart;
    }

    uint256 private constant POSITION = 69;
    uint256 private constant MAX = 0xffffffffffffffffffffffffffff; // 2^112 − 1
    uint64 private constant FOREVER = type(uint64).max;

    address public immutable clearingHouse;
    address public immutable disputes;
    address public immutable redemption;
    /// @notice May stop and resume new deposits.
    address public immutable guardian;
    /// @notice The delay W between a withdrawal request and its payment.
    uint64 public immutable withdrawalGracePeriod;

    mapping(address asset => mapping(address owner => Account)) private accounts;
    mapping(address asset => mapping(address owner => PendingLimit)) private pendingLimits;
    mapping(address asset => mapping(address owner => Request)) private requests;
    /// @notice Whether being settled from collateral is what this payer wants, and therefore no default.
    mapping(address user => bool) public autoSettle;
    mapping(address owner => mapping(address key => Signer)) private signers;
    /// @notice The operator's bond in an asset.
    mapping(address asset => uint256) public bond;
    mapping(address asset => Request) private bondRequests;
    mapping(address asset => Listing) private listings;
    address[] private tokens;
    Key[] private keys;
    /// @notice True while the guardian refuses new deposits.
    bool public depositsStopped;
    bool private transient entered;

    event CollateralDeposited(address indexed user, address indexed asset, uint256 amount);
    event CollateralWithdrawn(address indexed user, address indexed asset, uint256 amount);
    event WithdrawalRequested(address indexed user, address indexed asset, uint256 when, uint256 amount);
    event WithdrawalCanceled(address indexed user, address indexed asset);
    event AutoSettleSet(address indexed user, bool on);
    event SignerSet(address indexed owner, address indexed key, uint64 from, uint64 until);
    event LimitPerCycleSet(address indexed user, address indexed asset, uint256 limit, uint64 fromStart);
    event StablecoinAssetUpdated(address indexed asset, bool enabled);
    event DepositsStopped(bool stopped);
    event BondDeposited(address indexed asset, uint256 amount);
    event BondWithdrawalRequested(address indexed asset, uint256 when, uint256 amount);
    event BondWithdrawalCanceled(address indexed asset);
    event BondWithdrawn(address indexed asset, address indexed to, uint256 amount);
    event KeyRegistered(uint256 indexed index, G1Point key, uint64 fromStart);
    event KeyRevoked(uint256 indexed index, uint64 untilStart);

    error AmountZero();
    error AmountTooLarge();
    error InsufficientAvailable();
    error GracePeriodNotElapsed();
    error NoWithdrawalRequested();
    error UnsupportedAsset(address asset);
    error EnforcedPause();
    error DirectTransferNotAllowed();
    error ExactPaymentRequired(uint256 expected, uint256 received);
    error InvalidSignature();
    error NotAllowed(address caller);
    error Reentered();
    error InvalidRecipient();
    error LimitPending(uint64 fromStart);
    error DebtUnfunded(address debtor, uint256 shortage);
    error InvalidKeyPeriod();
    error UnknownKey(uint256 index);
    error UnknownSigner(address key);

    modifier nonReentrant() {
        if (entered) revert Reentered();
        entered = true;
        _;
        entered = false;
    }

    modifier onlyClearingHouse() {
        if (msg.sender != clearingHouse) revert NotAllowed(msg.sender);
        _;
    }

    modifier onlyRedemption() {
        if (msg.sender != redemption) revert NotAllowed(msg.sender);
        _;
    }

    modifier onlyBooks() {
        if (msg.sender != clearingHouse && msg.sender != redemption) revert NotAllowed(msg.sender);
        _;
    }

    modifier onlyOperator() {
        if (msg.sender != IClearingHouse(clearingHouse).operator()) revert NotAllowed(msg.sender);
        _;
    }

    /// @param clearingHouse_ address of the ClearingHouse, which need not have code yet.
    /// @param disputes_ address of the Disputes contract, which need not have code yet.
    /// @param redemption_ address of the Redemption contract, which need not have code yet.
    /// @param guardian_ may stop new deposits; zero for nobody.
    /// @param withdrawalDelay W, in seconds.
    /// @param stablecoins the tokens that are listed from the start.
    constructor(
        address clearingHouse_,
        address disputes_,
        address redemption_,
        address guardian_,
        uint64 withdrawalDelay,
        address[] memory stablecoins
    ) {
        clearingHouse = clearingHouse_;
        disputes = disputes_;
        redemption = redemption_;
        guardian = guardian_;
        withdrawalGracePeriod = withdrawalDelay;
        for (uint256 i; i < stablecoins.length; ++i) {
            _list(stablecoins[i]);
        }
    }

    receive() external payable {
        revert DirectTransferNotAllowed();
    }

    // ---------------------------------------------------------------- deposits

    /// @notice Adds the native coin sent to the caller's collateral.
    function deposit() external payable nonReentrant {
        _refuseWhenStopped();
        if (msg.value == 0) revert AmountZero();
        _deposit(address(0), msg.sender, msg.value);
    }

    /// @notice Pulls a listed token through the caller's allowance. What really arrived is credited.
    function depositStablecoin(address asset, uint256 amount) external nonReentrant {
        _refuseDeposit(asset, amount);
        _deposit(asset, msg.sender, Money.pull(asset, msg.sender, amount));
    }

    /// @notice Deposits by the EIP-3009 authorization of from, whoever submits it. The credit goes to from.
    function depositWithAuthorization(
        address asset,
        address from,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        _refuseDeposit(asset, value);
        uint256 received =
            Money.pullAuthorized(asset, from, value, abi.encode(validAfter, validBefore, nonce, v, r, s));
        _deposit(asset, from, received);
    }

    function _refuseWhenStopped() private view {
        if (depositsStopped) revert EnforcedPause();
    }

    function _refuseDeposit(address asset, uint256 amount) private view {
        _refuseWhenStopped();
        if (block.timestamp >= listings[asset].depositsEnd) revert UnsupportedAsset(asset);
        if (amount == 0) revert AmountZero();
    }

    function _deposit(address asset, address owner, uint256 amount) private {
        if (amount == 0) revert AmountZero();
        _increase(asset, owner, amount);
        emit CollateralDeposited(owner, asset, amount);
    }

    function _increase(address asset, address owner, uint256 amount) private {
        Account storage account = accounts[asset][owner];
        uint256 sum = uint256(account.collateral) + amount;
        if (sum > MAX) revert AmountTooLarge();
        account.collateral = uint112(sum);
    }

    // ------------------------------------------------------------- withdrawals

    function requestWithdrawal(uint256 amount) external {
        _requestWithdrawal(address(0), amount);
    }

    /// @notice Asks for amount to be paid after the delay. A new request replaces the old one and its clock.
    function requestWithdrawal(address asset, uint256 amount) external {
        _requestWithdrawal(asset, amount);
    }

    function cancelWithdrawal() external {
        _cancelWithdrawal(address(0));
    }

    function cancelWithdrawal(address asset) external {
        _cancelWithdrawal(asset);
    }

    function finalizeWithdrawal() external {
        _finalizeWithdrawal(address(0), msg.sender);
    }

    /// @notice Pays the lesser of what was requested and what is there, once the delay has passed.
    function finalizeWithdrawal(address asset) external {
        _finalizeWithdrawal(asset, msg.sender);
    }

    /// @notice Like finalizeWithdrawal, to another address: for an owner that cannot receive the asset itself.
    function finalizeWithdrawalTo(address asset, address to) external {
        _finalizeWithdrawal(asset, to);
    }

    function _requestWithdrawal(address asset, uint256 amount) private {
        if (amount == 0) revert AmountZero();
        if (amount > accounts[asset][msg.sender].collateral) revert InsufficientAvailable();
        requests[asset][msg.sender] = Request(uint112(amount), uint64(block.timestamp));
        emit WithdrawalRequested(msg.sender, asset, block.timestamp, amount);
    }

    function _cancelWithdrawal(address asset) private {
        if (requests[asset][msg.sender].timestamp == 0) revert NoWithdrawalRequested();
        delete requests[asset][msg.sender];
        emit WithdrawalCanceled(msg.sender, asset);
    }

    function _finalizeWithdrawal(address asset, address to) private nonReentrant {
        Request memory request = requests[asset][msg.sender];
        if (request.timestamp == 0) revert NoWithdrawalRequested();
        if (block.timestamp < uint256(request.timestamp) + withdrawalGracePeriod) revert GracePeriodNotElapsed();
        delete requests[asset][msg.sender];
        uint256 amount = _decrease(asset, msg.sender, request.amount);
        emit CollateralWithdrawn(msg.sender, asset, amount);
        _send(asset, to, amount);
    }

    function _decrease(address asset, address owner, uint256 atMost) private returns (uint256 taken) {
        Account storage account = accounts[asset][owner];
        uint256 collateral_ = account.collateral;
        taken = atMost < collateral_ ? atMost : collateral_;
        account.collateral = uint112(collateral_ - taken);
    }

    function _send(address asset, address to, uint256 amount) private {
        if (to == address(0) || to == address(this)) revert InvalidRecipient();
        if (amount != 0) Money.push(asset, to, amount);
    }

    // ------------------------------------------------------ what a payer chooses

    /// @notice Declares that being settled from collateral is no default. Counts from the cycles not yet marked.
    function setAutoSettle(bool on) external {
        autoSettle[msg.sender] = on;
        emit AutoSettleSet(msg.sender, on);
    }

    /// @notice Lets key sign claims and notes for the caller, at once; taking that back acts after a withdrawal delay, so
    /// that what the key signed stays good until every road it may take has ended.
    function setSigner(address key, bool on) external {
        Signer storage signer = signers[msg.sender][key];
        if (on) {
            (signer.from, signer.until) = (uint64(block.timestamp), FOREVER);
        } else {
            uint64 until = uint64(block.timestamp) + withdrawalGracePeriod;
            if (signer.until <= until) revert UnknownSigner(key);
            signer.until = until;
        }
        emit SignerSet(msg.sender, key, signer.from, signer.until);
    }

    /// @notice Whether key may sign for owner now: the owner's own key always may.
    function isSigner(address owner, address key) external view returns (bool) {
        return key == owner || block.timestamp < signers[owner][key].until;
    }

    /// @notice Caps what one cycle may take from the caller's collateral; 2^256 − 1 removes the cap. A higher limit acts
    /// at once, a lower one from the next cycle to start, so that it never undercuts a running one.
    function setLimitPerCycle(address asset, uint256 limit) external {
        if (limit > MAX) {
            if (limit != type(uint256).max) revert AmountTooLarge();
            limit = MAX;
        }
        uint112 gap = uint112(MAX - limit);
        Account storage account = accounts[asset][msg.sender];
        PendingLimit storage pending = pendingLimits[asset][msg.sender];
        uint64 fromStart;
        if (account.limitPending && block.timestamp >= pending.fromStart) {
            if (block.timestamp > IClearingHouse(clearingHouse).lastPost(asset, pending.fromStart)) {
                account.gap = pending.gap;
            } else {
                // The limit before the pending one still rules cycles that may yet be posted, so both must stay.
                fromStart = pending.fromStart;
                if (gap > pending.gap) revert LimitPending(fromStart);
                pending.gap = gap;
                emit LimitPerCycleSet(msg.sender, asset, _shown(gap), fromStart);
                return;
            }
        }
        if (gap > account.gap) fromStart = IClearingHouse(clearingHouse).nextStart(asset);
        account.limitPending = fromStart != 0;
        if (fromStart == 0) {
            account.gap = gap; // higher, or the asset has no schedule and so no cycles to undercut
        } else {
            pendingLimits[asset][msg.sender] = PendingLimit(gap, fromStart);
        }
        emit LimitPerCycleSet(msg.sender, asset, _shown(gap), fromStart);
    }

    /// @notice The limit that acts now on a cycle starting at periodStart; 2^256 − 1 for none.
    function limitPerCycle(address user, address asset, uint64 periodStart) external view returns (uint256) {
        return _shown(_gap(asset, user, periodStart));
    }

    function _gap(address asset, address owner, uint64 periodStart) private view returns (uint112) {
        Account storage account = accounts[asset][owner];
        if (account.limitPending) {
            PendingLimit storage pending = pendingLimits[asset][owner];
            if (periodStart >= pending.fromStart) return pending.gap;
        }
        return account.gap;
    }

    function _shown(uint112 gap) private pure returns (uint256) {
        return gap == 0 ? type(uint256).max : MAX - gap;
    }

    // -------------------------------------------------------- operator and guardian

    /// @notice Allows deposits of a token.
    function addStablecoinAsset(address asset) external onlyOperator {
        _list(asset);
    }

    /// @notice Ends deposits of a token after a withdrawal delay. What is deposited stays usable.
    function removeStablecoinAsset(address asset) external onlyOperator {
        if (listings[asset].depositsEnd != FOREVER) revert UnsupportedAsset(asset);
        listings[asset].depositsEnd = uint64(block.timestamp) + withdrawalGracePeriod;
        emit StablecoinAssetUpdated(asset, false);
    }

    function _list(address asset) private {
        if (asset == address(0) || asset.code.length == 0) revert UnsupportedAsset(asset);
        if (!listings[asset].known) tokens.push(asset);
        listings[asset] = Listing(FOREVER, true);
        emit StablecoinAssetUpdated(asset, true);
    }

    /// @notice Stops or resumes new deposits, which is all a guardian can do.
    function setDepositsStopped(bool stopped) external {
        if (msg.sender != guardian) revert NotAllowed(msg.sender);
        depositsStopped = stopped;
        emit DepositsStopped(stopped);
    }

    /// @notice Adds to the operator's bond in an asset; for the native coin amount must equal the value sent.
    function depositBond(address asset, uint256 amount) external payable nonReentrant {
        if (amount == 0) revert AmountZero();
        uint256 received = amount;
        if (asset == address(0)) {
            if (msg.value != amount) revert ExactPaymentRequired(amount, msg.value);
        } else {
            if (msg.value != 0) revert ExactPaymentRequired(0, msg.value);
            if (!listings[asset].known) revert UnsupportedAsset(asset);
            received = Money.pull(asset, msg.sender, amount);
        }
        _increaseBond(asset, received);
        emit BondDeposited(asset, received);
    }

    /// @notice The bond leaves later than any collateral whose owner asked when it saw this request.
    function bondWithdrawalDelay() public view returns (uint64) {
        return withdrawalGracePeriod + withdrawalGracePeriod / 8 + 1;
    }

    function requestBondWithdrawal(address asset, uint256 amount) external onlyOperator {
        if (amount == 0) revert AmountZero();
        if (amount > bond[asset]) revert InsufficientAvailable();
        bondRequests[asset] = Request(uint112(amount), uint64(block.timestamp));
        emit BondWithdrawalRequested(asset, block.timestamp, amount);
    }

    function cancelBondWithdrawal(address asset) external onlyOperator {
        if (bondRequests[asset].timestamp == 0) revert NoWithdrawalRequested();
        delete bondRequests[asset];
        emit BondWithdrawalCanceled(asset);
    }

    function finalizeBondWithdrawal(address asset, address to) external onlyOperator nonReentrant {
        Request memory request = bondRequests[asset];
        if (request.timestamp == 0) revert NoWithdrawalRequested();
        if (block.timestamp < uint256(request.timestamp) + bondWithdrawalDelay()) revert GracePeriodNotElapsed();
        delete bondRequests[asset];
        uint256 amount = _decreaseBond(asset, request.amount);
        emit BondWithdrawn(asset, to, amount);
        _send(asset, to, amount);
    }

    function bondWithdrawalRequests(address asset) external view returns (uint256 timestamp, uint256 amount) {
        Request storage request = bondRequests[asset];
        return (request.timestamp, request.amount);
    }

    function _increaseBond(address asset, uint256 amount) private {
        uint256 sum = bond[asset] + amount;
        if (sum > MAX) revert AmountTooLarge();
        bond[asset] = sum;
    }

    function _decreaseBond(address asset, uint256 atMost) private returns (uint256 taken) {
        uint256 held = bond[asset];
        taken = atMost < held ? atMost : held;
        bond[asset] = held - taken;
    }

    // ------------------------------------------------------------------ BLS keys

    /// @notice Registers a key that certifies guarantees of cycles starting at fromStart or later. The very first key may
    /// act on running cycles; every other one only on cycles that have not started.
    /// @param proof signature under the key of keyMessage(key): proves that the operator holds the secret.
    function registerKey(G1Point calldata key, G2Point calldata proof, uint64 fromStart) external onlyOperator {
        if (keys.length != 0 && fromStart <= block.timestamp) revert InvalidKeyPeriod();
        if (key.x_a | key.x_b | key.y_a | key.y_b == 0 || !Bls.verify(key, keyMessage(key), proof)) {
            revert InvalidSignature();
        }
        keys.push(Key(key, fromStart, FOREVER));
        emit KeyRegistered(keys.length - 1, key, fromStart);
    }

    /// @notice Ends a key for all cycles that have not started. Certificates of earlier cycles stay verifiable.
    function revokeKey(uint256 index) external onlyOperator {
        if (index >= keys.length) revert UnknownKey(index);
        uint64 untilStart = uint64(block.timestamp) + 1;
        if (untilStart >= keys[index].untilStart) revert InvalidKeyPeriod();
        keys[index].untilStart = untilStart;
        emit KeyRevoked(index, untilStart);
    }

    /// @notice What the holder of a key signs to register it: no certificate begins with these bytes.
    function keyMessage(G1Point memory key) public view returns (bytes memory) {
        return bytes.concat(keccak256("FARTHING_KEY_V1"), guaranteeDomainSeparator(), abi.encode(key));
    }

    function keyCount() external view returns (uint256) {
        return keys.length;
    }

    function keyAt(uint256 index) external view returns (G1Point memory key, uint64 fromStart, uint64 untilStart) {
        if (index >= keys.length) revert UnknownKey(index);
        Key storage k = keys[index];
        return (k.point, k.fromStart, k.untilStart);
    }

    /// @notice Whether the key with this index certifies cycles starting at periodStart and signed message. The caller
    /// names the key: a search would let an operator who registers many make every check too dear.
    function certified(uint256 index, bytes calldata message, G2Point calldata signature, uint64 periodStart)
        external
        view
        returns (bool)
    {
        if (index >= keys.length) revert UnknownKey(index);
        Key storage k = keys[index];
        return k.fromStart <= periodStart && periodStart < k.untilStart && Bls.verify(k.point, message, signature);
    }

    /// @notice The newest key that certifies the cycles of now; zeros while there is none.
    function GUARANTEE_VERIFICATION_KEY() external view returns (bytes32 x_a, bytes32 x_b, bytes32 y_a, bytes32 y_b) {
        G1Point memory key = _currentKey();
        return (key.x_a, key.x_b, key.y_a, key.y_b);
    }

    function _currentKey() private view returns (G1Point memory key) {
        for (uint256 i = keys.length; i > 0; --i) {
            Key storage k = keys[i - 1];
            if (k.fromStart <= block.timestamp && block.timestamp < k.untilStart) return k.point;
        }
    }

    /// @notice The domain in certificates of version 1.
    function guaranteeDomainSeparator() public view returns (bytes32) {
        return keccak256(abi.encode("4MICA_CORE_GUARANTEE_V1", block.chainid, address(this)));
    }

    /// @notice Key and domain of a guarantee version: 1, or 2 whose validation the Redemption contract decodes.
    function getGuaranteeVersionConfig(uint64 version)
        external
        view
        returns (G1Point memory verificationKey, bytes32 domainSeparator, address decoder, bool enabled)
    {
        if (version == 1) return (_currentKey(), guaranteeDomainSeparator(), address(0), true);
        if (version == 2) {
            return (
                _currentKey(),
                keccak256(abi.encode("4MICA_CORE_GUARANTEE_V2", block.chainid, address(this))),
                redemption,
                true
            );
        }
    }

    // --------------------------------------------------------------- views of owners

    function collateral(address user) external view returns (uint256) {
        return accounts[address(0)][user].collateral;
    }

    function collateral(address user, address asset) external view returns (uint256) {
        return accounts[asset][user].collateral;
    }

    function guaranteeCapacity(address user, address asset) external view returns (uint256) {
        return accounts[asset][user].collateral;
    }

    function principalBalance(address user, address asset) external view returns (uint256) {
        return accounts[asset][user].collateral;
    }

    function withdrawableBalance(address user, address asset) external view returns (uint256) {
        return accounts[asset][user].collateral;
    }

    function withdrawalRequests(address user, address asset) external view returns (uint256 timestamp, uint256 amount) {
        Request storage request = requests[asset][user];
        return (request.timestamp, request.amount);
    }

    function getUser(address user)
        external
        view
        returns (uint256 collateral_, uint256 withdrawalRequestTimestamp, uint256 withdrawalRequestAmount)
    {
        return _getUser(user, address(0));
    }

    function getUser(address user, address asset)
        external
        view
        returns (uint256 collateral_, uint256 withdrawalRequestTimestamp, uint256 withdrawalRequestAmount)
    {
        return _getUser(user, asset);
    }

    function _getUser(address user, address asset) private view returns (uint256, uint256, uint256) {
        Request storage request = requests[asset][user];
        return (accounts[asset][user].collateral, request.timestamp, request.amount);
    }

    /// @notice The native coin first, then every token ever listed.
    function getUserAllAssets(address user) external view returns (UserAsset[] memory all) {
        all = new UserAsset[](tokens.length + 1);
        for (uint256 i; i < all.length; ++i) {
            address asset = i == 0 ? address(0) : tokens[i - 1];
            Request storage request = requests[asset][user];
            all[i] = UserAsset(asset, accounts[asset][user].collateral, request.timestamp, request.amount);
        }
    }

    /// @notice The tokens that may be deposited now.
    function getERC20Tokens() external view returns (address[] memory listed) {
        listed = new address[](tokens.length);
        uint256 n;
        for (uint256 i; i < tokens.length; ++i) {
            if (block.timestamp < listings[tokens[i]].depositsEnd) listed[n++] = tokens[i];
        }
        assembly ("memory-safe") {
            mstore(listed, n)
        }
    }

    // -------------------------------------------------- hooks of the other contracts

    /// @notice Takes each debtor's amount from its collateral, within its limit, and what is short from the bond.
    /// @param positions a chunk whose form the ClearingHouse has checked.
    /// @return fills for each debtor that was short: its index in the chunk << 112 | the amount the bond gave.
    function takeDebits(address asset, uint64 periodStart, bytes calldata positions)
        external
        onlyClearingHouse
        returns (uint256[] memory fills)
    {
        mapping(address => Account) storage book = accounts[asset];
        uint256 count;
        uint256 filled;
        uint256 held;
        uint256 p;
        uint256 end;
        assembly ("memory-safe") {
            p := positions.offset
            end := add(p, positions.length)
        }
        while (true) {
            address debtor;
            uint256 amount;
            uint256 slot;
            uint256 word;
            assembly ("memory-safe") {
                mstore(0x20, book.slot)
                // Runs over the usual debtors, who have collateral and limit enough and no limit pending, and stops
                // behind the first other one.
                for {} lt(p, end) {} {
                    let head := calldataload(p)
                    p := add(p, POSITION)
                    if byte(20, head) { continue } // not a debtor
                    amount := shr(128, calldataload(sub(p, 48)))
                    mstore(0x00, shr(96, head))
                    slot := keccak256(0x00, 0x40)
                    word := sload(slot)
                    if or(
                        or(lt(and(word, MAX), amount), shr(224, word)),
                        gt(amount, sub(MAX, and(shr(112, word), MAX)))
                    ) {
                        debtor := shr(96, head)
                        break
                    }
                    sstore(slot, sub(word, amount))
                }
            }
            if (debtor == address(0)) break;
            uint256 taken = MAX - (word >> 224 == 0 ? uint112(word >> 112) : _gap(asset, debtor, periodStart));
            if (taken > uint112(word)) taken = uint112(word);
            if (taken > amount) taken = amount;
            if (taken != 0) {
                assembly ("memory-safe") {
                    sstore(slot, sub(word, taken))
                }
            }
            if (taken == amount) continue;
            uint256 shortage = amount - taken;
            if (count == 0) {
                fills = new uint256[](positions.length / POSITION);
                held = bond[asset];
            }
            if (held - filled < shortage) revert DebtUnfunded(debtor, shortage);
            filled += shortage;
            assembly ("memory-safe") {
                let index := sub(div(sub(p, positions.offset), POSITION), 1)
                count := add(count, 1)
                mstore(add(fills, shl(5, count)), or(shl(112, index), shortage))
            }
        }
        if (count != 0) {
            bond[asset] = held - filled;
            assembly ("memory-safe") {
                mstore(fills, count)
            }
        }
    }

    /// @notice Undoes takeDebits for a chunk of a cycle that came to nothing.
    /// @param fills as takeDebits returned them, without those that a payment has given back to the bond since.
    /// @return debtors how many debtors the chunk has.
    function returnDebits(address asset, bytes calldata positions, uint256[] calldata fills)
        external
        onlyClearingHouse
        returns (uint256 debtors)
    {
        mapping(address => Account) storage book = accounts[asset];
        uint256 filled;
        bool tooLarge;
        assembly ("memory-safe") {
            let fill := fills.offset
            let fillsEnd := add(fill, shl(5, fills.length))
            let end := add(positions.offset, positions.length)
            mstore(0x20, book.slot)
            for { let p := positions.offset } lt(p, end) { p := add(p, POSITION) } {
                let head := calldataload(p)
                if byte(20, head) { continue } // not a debtor
                debtors := add(debtors, 1)
                let amount := shr(128, calldataload(add(p, 21)))
                if lt(fill, fillsEnd) {
                    let entry := calldataload(fill)
                    if eq(shr(112, entry), div(sub(p, positions.offset), POSITION)) {
                        filled := add(filled, and(entry, MAX))
                        amount := sub(amount, and(entry, MAX))
                        fill := add(fill, 0x20)
                    }
                }
                mstore(0x00, shr(96, head))
                let slot := keccak256(0x00, 0x40)
                let word := sload(slot)
                tooLarge := or(tooLarge, gt(add(and(word, MAX), amount), MAX))
                sstore(slot, add(word, amount))
            }
        }
        if (tooLarge) revert AmountTooLarge();
        if (filled != 0) _increaseBond(asset, filled);
    }

    /// @notice Pulls a net debit from the debtor itself. It replaces what posting took: the filled part goes back to the
    /// bond, the rest to the debtor's collateral.
    function pullDebit(address asset, address debtor, uint256 amount, uint256 filled)
        external
        payable
        onlyClearingHouse
        nonReentrant
    {
        if (asset == address(0)) {
            if (msg.value != amount) revert ExactPaymentRequired(amount, msg.value);
        } else {
            if (msg.value != 0) revert ExactPaymentRequired(0, msg.value);
            uint256 received = Money.pull(asset, debtor, amount);
            if (received != amount) revert ExactPaymentRequired(amount, received);
        }
        if (filled != 0) _increaseBond(asset, filled);
        _increase(asset, debtor, amount - filled);
    }

    /// @notice Pays money that a book owes.
    function payOut(address asset, address to, uint256 amount) external onlyBooks nonReentrant {
        _send(asset, to, amount);
    }

    /// @notice Turns money that a book owes into collateral of owner.
    function credit(address asset, address owner, uint256 amount) external onlyBooks {
        _increase(asset, owner, amount);
        emit CollateralDeposited(owner, asset, amount);
    }

    /// @notice Pays a reward out of the bond, as far as there is any, into the collateral of whoever earned it.
    function reward(address asset, address to, uint256 atMost) external returns (uint256 paid) {
        if (msg.sender != clearingHouse && msg.sender != disputes) revert NotAllowed(msg.sender);
        paid = _decreaseBond(asset, atMost);
        if (paid == 0) return 0;
        _increase(asset, to, paid);
        emit BondWithdrawn(asset, to, paid);
        emit CollateralDeposited(to, asset, paid);
    }

    /// @notice Moves collateral into a redemption pool, as far as there is any.
    function takeCollateral(address asset, address owner, uint256 atMost)
        external
        onlyRedemption
        returns (uint256 taken)
    {
        return _decrease(asset, owner, atMost);
    }

    /// @notice Moves bond into a redemption pool that is short, as far as there is any.
    function takeBond(address asset, uint256 atMost) external onlyRedemption returns (uint256 taken) {
        return _decreaseBond(asset, atMost);
    }

    /// @notice Returns to the bond what takeBond took and nobody was owed.
    function giveBond(address asset, uint256 amount) external onlyRedemption {
        _increaseBond(asset, amount);
    }
}
