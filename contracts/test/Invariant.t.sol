// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base, Pos} from "./Base.sol";
import {HostileToken} from "./Hostile.sol";
import {ClearingHouse} from "../src/ClearingHouse.sol";
import {Vault} from "../src/Vault.sol";

/// Refuses native coin while it is angry, so claims and withdrawals to it fail.
contract Moody {
    bool public angry;

    function turn() external {
        angry = !angry;
    }

    receive() external payable {
        require(!angry);
    }
}

/// Does at random what owners, operator, guardian, disputes and redemption can do, in three assets: native coin with a
/// receiver that refuses it, a test dollar, and a token whose issuer pauses it and takes fees. It keeps its own books of
/// what posted cycles owe and notes whatever must never happen.
contract Handler is Base {
    address[3] public assets;
    address[5] public people;
    mapping(address => uint256) public owed; // credits of sealed cycles not yet claimed, debits posted and not released
    mapping(address => uint256) public pool; // taken for redemption and not yet paid
    mapping(address => uint256) public donated;
    string public broken;

    struct Run {
        address asset;
        uint64 start;
        uint64 generation;
        bool sealedOnce;
        Pos[] positions;
    }

    Run[] private runs;
    uint256 public claimedCount;
    uint256 public sealedCount;
    uint256 public voidedCount;
    uint256 public filledCount;
    uint256 public releasedCount;
    HostileToken private token;

    function begin() external {
        setUp();
        token = new HostileToken();
        vm.startPrank(operator);
        vault.addStablecoinAsset(address(token));
        house.setSchedule(address(token), demo(START));
        vm.stopPrank();
        assets = [address(0), address(usd), address(token)];
        people = [address(0x1001), address(0x2002), address(0x3003), address(0x4004), address(new Moody())];
        require(people[4] > people[3], "ascending");
        for (uint256 i; i < 5; ++i) {
            vm.deal(people[i], 1e30);
            usd.mint(people[i], 1e30);
            token.mint(people[i], 1e30);
            vm.startPrank(people[i]);
            usd.approve(address(vault), type(uint256).max);
            token.approve(address(vault), type(uint256).max);
            vm.stopPrank();
        }
        vm.deal(address(this), 1e30);
        usd.mint(address(this), 1e30);
        token.mint(address(this), 1e30);
        usd.approve(address(vault), type(uint256).max);
        token.approve(address(vault), type(uint256).max);
    }

    function theVault() external view returns (Vault) {
        return vault;
    }

    function balance(address a) public view returns (uint256) {
        if (a == address(0)) return address(vault).balance;
        return a == address(usd) ? usd.balanceOf(address(vault)) : token.balanceOf(address(vault));
    }

    function fail(string memory what) private {
        if (bytes(broken).length == 0) broken = what;
    }

    // --------------------------------------------------------------------- owners

    function deposit(uint8 who, uint8 which, uint64 amount) external {
        (address person, address a) = (people[who % 5], assets[which % 3]);
        vm.startPrank(person);
        if (a == address(0)) try vault.deposit{value: amount}() {} catch {}
        else try vault.depositStablecoin(a, amount) {} catch {}
        vm.stopPrank();
    }

    function request(uint8 who, uint8 which, uint64 amount) external {
        vm.prank(people[who % 5]);
        try vault.requestWithdrawal(assets[which % 3], amount) {} catch {}
    }

    function withdraw(uint8 who, uint8 which) external {
        (address person, address a) = (people[who % 5], assets[which % 3]);
        (uint256 before, uint256 when,) = vault.getUser(person, a);
        vm.prank(person);
        try vault.finalizeWithdrawal(a) {
            if (when == 0 || vm.getBlockTimestamp() < when + W) fail("I7: left before its delay");
            (uint256 rest,,) = vault.getUser(person, a);
            if (rest > before) fail("I1: grew by a withdrawal");
        } catch {
            // the dollar refuses nobody, and neither does anybody else keep one from leaving with it
            if (a == address(usd) && when != 0 && vm.getBlockTimestamp() >= when + W) fail("I7: an exit was blocked");
        }
    }

    function limit(uint8 who, uint8 which, uint64 amount, bool none) external {
        vm.prank(people[who % 5]);
        try vault.setLimitPerCycle(assets[which % 3], none ? type(uint256).max : amount) {} catch {}
    }

    function donate(uint8 which, uint32 amount) external {
        address a = assets[which % 3];
        if (a == address(0)) {
            vm.deal(address(vault), address(vault).balance + amount); // as selfdestruct does
        } else if (a == address(usd)) {
            usd.mint(address(vault), amount);
        } else {
            token.mint(address(vault), amount);
        }
        donated[a] += amount;
    }

    // -------------------------------------------------------------------- issuer, clock

    function trouble(bool paused, bool lies, uint8 fee) external {
        token.set(paused, lies, false, fee % 4 == 0 ? 10 : 0);
        Moody(payable(people[4])).turn();
    }

    function pass(uint8 time) external {
        vm.warp(vm.getBlockTimestamp() + time % 12);
    }

    // ------------------------------------------------------------------------ operator

    function bond(uint8 which, uint32 amount) external {
        address a = assets[which % 3];
        try vault.depositBond{value: a == address(0) ? amount : 0}(a, amount) {} catch {}
    }

    function leaveBond(uint8 which, bool finish) external {
        address a = assets[which % 3];
        vm.startPrank(operator);
        if (finish) try vault.finalizeBondWithdrawal(a, operator) {} catch {}
        else try vault.requestBondWithdrawal(a, 1) {} catch {}
        vm.stopPrank();
    }

    /// Posts a random balanced book for the cycle whose window is open, now and then over what debtors have.
    function postCycle(uint8 which, uint256 seed) external {
        asset = assets[which % 3];
        uint64 now_ = uint64(vm.getBlockTimestamp());
        if (now_ < START + 7) vm.warp(now_ = START + 7);
        uint64 start = START + (now_ - START - 7) / 6 * 6;
        uint64 generation = house.cycle(id(start)).generation;
        Pos[] memory p = book(seed);
        uint256[5] memory before;
        for (uint256 i; i < 5; ++i) before[i] = held(people[i]);
        uint256 bondBefore = vault.bond(asset);
        bytes memory chunk = pack(p);
        vm.prank(operator);
        try house.postPositions(asset, start, generation, 0, 10, chunk) {
            Run storage run = runs.push();
            (run.asset, run.start, run.generation) = (asset, start, generation);
            for (uint256 i; i < p.length; ++i) run.positions.push(p[i]);
            owed[asset] += debits(p);
            checkTaken(p, start, generation, before, bondBefore);
        } catch (bytes memory reason) {
            bytes4 s = bytes4(reason);
            // I8: only order, time and money can refuse a book, never a participant or a token
            if (
                s != Vault.DebtUnfunded.selector && s != ClearingHouse.PostingClosed.selector
                    && s != ClearingHouse.CycleAlreadyCommitted.selector && s != ClearingHouse.ChunkOutOfTurn.selector
                    && s != ClearingHouse.InvalidCycleStatus.selector
            ) fail("I8: a post was blocked");
        }
    }

    function checkTaken(Pos[] memory p, uint64 start, uint64 generation, uint256[5] memory before, uint256 bondBefore)
        private
    {
        uint256 filled;
        for (uint256 i; i < 5; ++i) {
            uint256 debit = i < p.length && p[i].role == DEBTOR ? p[i].amount : 0;
            uint256 fill = house.fillOf(id(start), generation, people[i]);
            if (before[i] - held(people[i]) != debit - fill) fail("I2: taken is not debit less fill");
            if (debit - fill > vault.limitPerCycle(people[i], asset, start)) fail("I2: over the limit");
            filled += fill;
        }
        if (filled != 0) ++filledCount;
        if (bondBefore - vault.bond(asset) != filled) fail("I2: the bond paid other than the fills");
    }

    function book(uint256 seed) private view returns (Pos[] memory p) {
        p = new Pos[](5);
        uint256 sum;
        for (uint256 i; i < 4; ++i) {
            p[i] = Pos(people[i], FLAT, 0, keccak256(abi.encode(seed, i)));
            uint256 r = uint256(p[i].statement);
            uint256 has = held(people[i]);
            if (r % 3 == 0) continue;
            if (r % 3 == 1 && sum != 0) {
                (p[i].role, p[i].amount) = (CREDITOR, uint128(1 + r % sum));
                sum -= p[i].amount;
            } else {
                (p[i].role, p[i].amount) = (DEBTOR, uint128(1 + r % (has + has / 20 + 1)));
                sum += p[i].amount;
            }
        }
        p[4] = Pos(people[4], sum == 0 ? FLAT : CREDITOR, uint128(sum), keccak256(abi.encode(seed)));
    }

    function run(uint256 seed) private returns (Run storage r) {
        r = runs[seed % runs.length];
        asset = r.asset;
    }

    function seal(uint256 seed, bool wrong) external {
        if (runs.length == 0) return;
        Run storage r = runs[runs.length - 1 - seed % 2 % runs.length];
        asset = r.asset;
        Pos[] memory p = r.positions;
        uint64 d = uint64(vm.getBlockTimestamp()) + 1;
        bytes32 declared = root(leaves(r.start, p));
        if (wrong) declared = keccak256(abi.encode(declared));
        uint256 total = debits(p);
        vm.prank(operator);
        try house.commitCycle(id(r.start), asset, declared, total, total, d, d) {
            if (wrong) fail("I3: sealed a root that was not posted");
            uint256 credits;
            for (uint256 i; i < p.length; ++i) {
                if (p[i].role == CREDITOR) credits += p[i].amount;
            }
            if (credits != total) fail("I3: debits and credits differ");
            r.sealedOnce = true;
            ++sealedCount;
        } catch {}
    }

    // -------------------------------------------------------------------------- anyone

    function payDebit(uint256 seed, uint8 who) external {
        if (runs.length == 0) return;
        Run storage r = run(seed);
        Pos[] memory p = r.positions;
        uint256 i = who % 5;
        bytes32[] memory proof = prove(r.start, p, i);
        vm.prank(people[i]);
        try house.payNetDebit{value: asset == address(0) ? p[i].amount : 0}(id(r.start), p[i].amount, proof) {} catch {}
    }

    function claim(uint256 seed, uint8 who, bool intoVault) external {
        if (runs.length == 0) return;
        Run storage r = run(seed);
        Pos[] memory p = r.positions;
        uint256 i = who % 5;
        bytes32[] memory proof = prove(r.start, p, i);
        ClearingHouse.Cycle memory c = house.cycle(id(r.start));
        vm.prank(people[i]);
        if (intoVault) {
            try house.claimToVault(id(r.start), people[i], p[i].amount, proof) {
                claimed(r, c, p[i]);
            } catch {}
        } else {
            try house.claimNetCredit(id(r.start), p[i].amount, proof) {
                claimed(r, c, p[i]);
            } catch {}
        }
    }

    function claimed(Run storage r, ClearingHouse.Cycle memory before, Pos memory p) private {
        owed[r.asset] -= p.amount;
        ++claimedCount;
        if (p.role != CREDITOR) fail("I4: a claim by someone who was not a creditor");
        bool final_ = before.status == ClearingHouse.Status.Final
            || (before.status == ClearingHouse.Status.Sealed && vm.getBlockTimestamp() > uint256(before.since) + 4);
        if (!final_) fail("I6: paid out of a cycle that could be voided");
        if (r.generation != before.generation) fail("I4: paid out of a voided generation");
    }

    function mark(uint256 seed, uint8 who) external {
        if (runs.length == 0) return;
        Run storage r = run(seed);
        Pos[] memory p = r.positions;
        uint256 i = who % 5;
        try house.markDefaulted(id(r.start), people[i], p[i].amount, prove(r.start, p, i)) {} catch {}
    }

    function finalize(uint256 seed) external {
        if (runs.length == 0) return;
        Run storage r = run(seed);
        ClearingHouse.Cycle memory c = house.cycle(id(r.start));
        bool due = c.status == ClearingHouse.Status.Sealed && vm.getBlockTimestamp() > uint256(c.since) + 4;
        try house.finalizeCycle(id(r.start)) {
            if (!due) fail("I6: final too early");
        } catch {
            if (due) fail("I8: finality was blocked");
        }
    }

    function voidCycle(uint256 seed) external {
        if (runs.length == 0 || seed % 3 != 0) return;
        Run storage r = runs[runs.length - 1 - seed / 3 % 2 % runs.length];
        asset = r.asset;
        vm.prank(disputes);
        try house.voidCycle(id(r.start)) {
            ++voidedCount;
        } catch {}
    }

    function release(uint256 seed) external {
        if (runs.length == 0) return;
        Run storage r = run(seed);
        Pos[] memory p = r.positions;
        try house.release(id(r.start), r.generation, 0, pack(p)) {
            owed[r.asset] -= debits(p);
            ++releasedCount;
        } catch {}
    }

    function redeem(uint8 who, uint8 which, uint32 amount, bool payNow) external {
        (address person, address a) = (people[who % 5], assets[which % 3]);
        vm.startPrank(redemption);
        if (payNow) {
            uint256 most = pool[a] < amount ? pool[a] : amount;
            try vault.payOut(a, person, most) {
                pool[a] -= most;
            } catch {}
        } else {
            pool[a] += vault.takeCollateral(a, person, amount);
        }
        vm.stopPrank();
    }

    // ------------------------------------------------------------------------ books

    function accounted(address a) external view returns (uint256 sum) {
        for (uint256 i; i < 5; ++i) sum += vault.collateral(people[i], a);
        sum += owed[a] + pool[a] + vault.bond(a) + vault.collateral(address(this), a);
    }
}

contract InvariantTest is Base {
    Handler private handler;
    address[] private _targets;

    function setUp() public override {
        handler = new Handler();
        handler.begin();
        _targets.push(address(handler));
    }

    function targetContracts() external view returns (address[] memory) {
        return _targets;
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() external view returns (FuzzSelector[] memory all) {
        bytes4[18] memory s = [
            Handler.deposit.selector,
            Handler.request.selector,
            Handler.withdraw.selector,
            Handler.limit.selector,
            Handler.donate.selector,
            Handler.trouble.selector,
            Handler.pass.selector,
            Handler.bond.selector,
            Handler.leaveBond.selector,
            Handler.postCycle.selector,
            Handler.seal.selector,
            Handler.payDebit.selector,
            Handler.claim.selector,
            Handler.mark.selector,
            Handler.finalize.selector,
            Handler.voidCycle.selector,
            Handler.release.selector,
            Handler.redeem.selector
        ];
        // posting and sealing three times as often, or few cycles would come to an end
        all = new FuzzSelector[](1);
        all[0].addr = address(handler);
        all[0].selectors = new bytes4[](24);
        for (uint256 i; i < 18; ++i) all[0].selectors[i] = s[i];
        for (uint256 i; i < 2; ++i) {
            all[0].selectors[18 + 3 * i] = Handler.postCycle.selector;
            all[0].selectors[19 + 3 * i] = Handler.seal.selector;
            all[0].selectors[20 + 3 * i] = Handler.deposit.selector;
        }
    }

    /// I1: what the vault holds is exactly what it owes and what was given to it by mistake; with a token that takes
    /// fees it may hold more, never less.
    function invariant_I1_solvent() public view {
        for (uint256 i; i < 3; ++i) {
            address a = handler.assets(i);
            uint256 owes = handler.accounted(a) + handler.donated(a);
            if (i < 2) eq(handler.balance(a), owes, "I1: exact");
            else yes(handler.balance(a) >= owes, "I1: solvent");
        }
    }

    /// I2, I3, I4, I6, I7, I8, as the handler saw them while it acted.
    function invariant_nothing_broke() public view {
        yes(bytes(handler.broken()).length == 0, handler.broken());
    }

    /// The invariants above say little unless cycles are sealed, claimed, filled and voided on the way.
    function test_the_handler_takes_every_road() public {
        for (uint256 i; i < 1500; ++i) {
            uint256 r = uint256(keccak256(abi.encode(i)));
            (uint8 who, uint8 which, uint256 kind) = (uint8(r >> 8), uint8(r >> 16), uint8(r) % 12);
            if (kind < 2) handler.deposit(who, which, uint64(r >> 192) % 1e6);
            else if (kind < 4) handler.postCycle(which, r);
            else if (kind < 6) handler.seal(r >> 24, false);
            else if (kind == 6) handler.claim(r >> 24, who, r >> 255 == 1);
            else if (kind == 7) handler.pass(uint8(r >> 32));
            else if (kind == 8) handler.bond(which, uint32(r >> 40) % 1e6);
            else if (kind == 9) handler.voidCycle(r >> 24);
            else if (kind == 10) handler.release(r >> 24);
            else handler.payDebit(r >> 24, who);
        }
        yes(handler.sealedCount() > 5, "sealed");
        yes(handler.claimedCount() > 5, "claimed");
        yes(handler.filledCount() > 1, "filled");
        yes(handler.voidedCount() > 1, "voided");
        yes(handler.releasedCount() > 1, "released");
        invariant_I1_solvent();
        invariant_nothing_broke();
    }
}
