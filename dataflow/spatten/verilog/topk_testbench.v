// Runs a file of cases through the engine and says what came out, and when.
//
//   vvp engine.vvp +cases=FILE [+overlap] [+lfsr] [+width=N] [+dump=FILE.vcd]
//
// FILE: per case `n keep seed value ... value`, all decimal but the seed (hexadecimal), split by white space.
// +overlap  the next vector is loaded as soon as a buffer is free; otherwise when the case before has ended
// +width    values loaded a cycle, at most (and otherwise) LANES
// +lfsr     pivots from lfsr.v; otherwise from splitmix64, begun anew with each case's seed
//
// Output, a line each:
//   select CASE start found passes threshold ties   clock cycles; start: the first pivot is drawn
//   filter CASE last                                cycle at which the last winners are on the output
//   winners CASE position:value ...                 as they come, some lines a case
//   refused CASE
`default_nettype none

module topk_testbench;
    parameter LANES = 16;
    parameter DEPTH = 64;
    parameter WIDTH = 12;
    parameter SHIFT_REGISTERS = 0;
    parameter MAX_CASES = 65536;
    localparam COUNT_BITS = $clog2(LANES + 1);
    localparam SIZE_BITS = $clog2(LANES * DEPTH + 1);
    localparam WINNER = SIZE_BITS + WIDTH;

    reg clk = 0, reset = 1;
    always #1 clk = !clk;
    integer cycle = 0;
    always @(posedge clk) cycle <= cycle + 1;

    reg in_valid = 0, in_last = 0;
    reg [COUNT_BITS-1:0] in_count = 0;
    reg [LANES*WIDTH-1:0] in_data = 0;
    reg [SIZE_BITS-1:0] in_keep = 0;
    wire in_ready, refused, draw, out_valid, out_last;
    wire [COUNT_BITS-1:0] out_count;
    wire [LANES*WINNER-1:0] out_data;
    wire [30:0] random, shifted;

    topk_engine #(.LANES(LANES), .DEPTH(DEPTH), .WIDTH(WIDTH), .SHIFT_REGISTERS(SHIFT_REGISTERS)) engine (
        .clk(clk), .reset(reset), .in_valid(in_valid), .in_ready(in_ready), .in_count(in_count), .in_data(in_data),
        .in_last(in_last), .in_keep(in_keep), .refused(refused), .random(random), .draw(draw),
        .out_valid(out_valid), .out_last(out_last), .out_count(out_count), .out_data(out_data));
    lfsr pivots (.clk(clk), .reset(reset), .draw(draw), .random(shifted));

    // splitmix64, the generator of the cycle model
    localparam [63:0] STEP = 64'h9E3779B97F4A7C15;
    function [63:0] mixed(input [63:0] state);
        begin
            mixed = (state ^ (state >> 30)) * 64'hBF58476D1CE4E5B9;
            mixed = (mixed ^ (mixed >> 27)) * 64'h94D049BB133111EB;
            mixed = mixed ^ (mixed >> 31);
        end
    endfunction
    reg [63:0] seeds [0:MAX_CASES-1];
    integer numbers [0:MAX_CASES-1];  // of accepted vectors: which case it is
    integer loaded = 0, found = 0, ended = 0, refusals = 0, start = 0, passes = 0;
    reg use_lfsr = 0, overlap = 0;
    reg [63:0] state = 0;
    wire [63:0] next = (engine.select_idle ? seeds[numbers[found]] : state) + STEP;
    wire [63:0] bits = mixed(next);
    assign random = use_lfsr ? shifted : bits[63:33];
    always @(posedge clk) if (draw) state <= next;

    // Report
    always @(posedge clk) if (!reset) begin
        if (engine.start) start <= cycle;
        if (draw) passes <= engine.start ? 1 : passes + 1;
        if (engine.accept) begin
            $display("select %0d %0d %0d %0d %0d %0d", numbers[found], start, cycle, passes, engine.threshold,
                     engine.ties);
            found <= found + 1;
        end
    end
    integer i;
    always @(posedge clk) if (out_valid) begin
        $write("winners %0d", numbers[ended]);
        for (i = 0; i < out_count; i = i + 1)
            $write(" %0d:%0d", out_data[i*WINNER+WIDTH+:SIZE_BITS], out_data[i*WINNER+:WIDTH]);
        $write("\n");
        if (out_last) begin
            $display("filter %0d %0d", numbers[ended], cycle);
            ended <= ended + 1;
        end
    end

    // The longest search has a pass for every value
    integer quiet = 0;
    always @(posedge clk) begin
        quiet <= out_valid || (in_valid && in_ready) ? 0 : quiet + 1;
        if (quiet > LANES * DEPTH * (DEPTH + 16)) begin
            $display("error: case %0d does not end", numbers[ended]);
            $finish;
        end
    end

    // Load
    integer file, code, number, n, keep, left, lane;
    reg [63:0] seed;
    integer width = LANES;
    reg [1023:0] path;
    reg [WIDTH-1:0] value;
    reg [LANES*WIDTH-1:0] beat;
    initial begin
        overlap = $test$plusargs("overlap");
        use_lfsr = $test$plusargs("lfsr");
        if (!$value$plusargs("width=%d", width)) width = LANES;
        if ($value$plusargs("dump=%s", path)) begin
            $dumpfile(path);
            $dumpvars(0, topk_testbench);
        end
        if (!$value$plusargs("cases=%s", path)) begin
            $display("error: +cases=FILE is missing");
            $finish;
        end
        file = $fopen(path, "r");
        if (file == 0) begin
            $display("error: %0s cannot be read", path);
            $finish;
        end
        repeat (3) @(negedge clk);
        reset = 0;
        number = 0;
        code = $fscanf(file, "%d %d %h", n, keep, seed);
        while (code == 3) begin
            numbers[loaded] = number;
            seeds[number] = seed;
            left = n;
            while (left > 0) begin
                in_count = left < width ? left : width;
                for (lane = 0; lane < in_count; lane = lane + 1) begin
                    code = $fscanf(file, "%d", value);
                    beat[lane*WIDTH+:WIDTH] = value;
                end
                in_data = beat;
                left = left - in_count;
                in_keep = keep;
                in_last = left == 0;
                in_valid = 1;
                while (!in_ready) @(negedge clk);
                @(negedge clk);
            end
            in_valid = 0;
            if (refused) begin
                $display("refused %0d", number);
                refusals = refusals + 1;
            end else loaded = loaded + 1;
            if (!overlap) while (ended < loaded) @(negedge clk);
            number = number + 1;
            code = $fscanf(file, "%d %d %h", n, keep, seed);
        end
        while (ended < loaded) @(negedge clk);
        $display("end %0d cases in %0d cycles", number, cycle);
        $finish;
    end
endmodule

`default_nettype wire
