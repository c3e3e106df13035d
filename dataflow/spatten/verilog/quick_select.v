// Quick-select (SpAtten, Alg. 3 and Fig. 9): finds the keep-th largest of n values, and how many equal to it stay.
//
// A pass reads the survivors, LANES a cycle, past a pivot: smaller ones go through a zero eliminator into FIFO_L, larger
// ones into FIFO_R, equal ones are counted. Where the wanted rank lies decides which FIFO the next pass reads. The first
// pass reads the input buffer. Cycles of a pass over m values, from decision to decision:
//   1                  decide, draw the pivot's place, address its row
//   1                  pivot out of its row; address of row 0
//   ceil(m / LANES)    a row is compared ...
//   1                  ... packed and written: the last one
//   ceil(log2(LANES))  registers between the shifts, where SHIFT_REGISTERS is 1
`default_nettype none

module quick_select #(
    parameter LANES = 16,
    parameter DEPTH = 64,
    parameter WIDTH = 12,
    parameter SHIFT_REGISTERS = 0,
    parameter RANDOM_BITS = 31,
    parameter COUNT_BITS = $clog2(LANES + 1),
    parameter SIZE_BITS = $clog2(LANES * DEPTH + 1),
    parameter ROW_BITS = $clog2(DEPTH + 1)
) (
    input  wire                   clk,
    input  wire                   reset,
    input  wire                   start,       // n values wait in the buffer; taken when idle
    input  wire [SIZE_BITS-1:0]   n,
    input  wire [SIZE_BITS-1:0]   keep,        // 1 .. n
    output wire                   idle,
    output wire [ROW_BITS-1:0]    buffer_row,  // rests at 0
    input  wire [LANES*WIDTH-1:0] buffer_data,
    input  wire [RANDOM_BITS-1:0] random,
    output wire                   draw,        // `random` is used in this cycle
    output wire                   found,       // until `accept`
    input  wire                   accept,
    output wire [WIDTH-1:0]       threshold,
    output wire [SIZE_BITS-1:0]   ties         // of the values equal to the threshold, the first so many stay
);
    localparam IDLE = 0, PIVOT = 1, READ = 2, DRAIN = 3, DECIDE = 4;
    localparam BUFFER = 0, LEFT = 1, RIGHT = 2;
    localparam SHIFTS = SHIFT_REGISTERS ? $clog2(LANES) : 0;
    localparam WAIT = 1 + SHIFTS;  // cycles between the last row's address and the decision, less one

    reg [2:0] state;
    reg [1:0] source;
    reg [SIZE_BITS-1:0] left, target, equal, lane;  // left: values not yet addressed
    reg [WIDTH-1:0] pivot;
    reg [ROW_BITS-1:0] row;
    reg [31:0] waited;

    // Decision
    wire [SIZE_BITS-1:0] size_left, size_right;
    wire first = state == IDLE && start;
    wire deciding = state == DECIDE;
    wire go_right = deciding && target <= size_right;
    wire is_found = deciding && !go_right && target <= size_right + equal;
    wire go_left = deciding && !go_right && !is_found;
    wire [SIZE_BITS-1:0] survivors = first ? n : go_right ? size_right : size_left;
    wire [1:0] next_source = first ? BUFFER : go_right ? RIGHT : LEFT;
    assign draw = first || go_right || go_left;
    assign idle = state == IDLE;
    assign found = is_found;
    assign threshold = pivot;
    assign ties = target - size_right;

    // Place of the pivot among the survivors: random * survivors / 2**RANDOM_BITS
    wire [RANDOM_BITS+SIZE_BITS-1:0] product = random * survivors;
    wire [SIZE_BITS-1:0] place = product >> RANDOM_BITS;

    // Reading: address of a row in this cycle, its data in the next
    wire [ROW_BITS-1:0] address = draw ? place / LANES : state == READ || state == PIVOT ? row : 0;
    wire [1:0] from = draw ? next_source : source;
    assign buffer_row = from == BUFFER ? address : 0;
    wire [LANES*WIDTH-1:0] left_data, right_data;
    wire [LANES*WIDTH-1:0] data = source == BUFFER ? buffer_data : source == LEFT ? left_data : right_data;
    wire addressing = state == READ || state == PIVOT;
    wire last_row = left <= LANES;

    always @(posedge clk)
        if (reset) state <= IDLE;
        else case (state)
            IDLE: if (start) state <= PIVOT;
            PIVOT, READ: begin
                state <= last_row ? DRAIN : READ;
                waited <= 0;
            end
            DRAIN: begin
                waited <= waited + 1;
                if (waited == WAIT) state <= DECIDE;
            end
            default: state <= !is_found ? PIVOT : accept ? IDLE : DECIDE;
        endcase

    always @(posedge clk) begin
        if (draw) begin
            source <= next_source;
            left <= survivors;
            lane <= place % LANES;
            row <= 0;
            target <= first ? keep : go_left ? target - size_right - equal : target;
        end
        if (state == PIVOT) pivot <= data[lane*WIDTH+:WIDTH];
        if (addressing) begin
            row <= row + 1;
            left <= last_row ? 0 : left - LANES;
        end
    end

    // Comparing: which lanes hold a value, and on which side of the pivot
    reg row_valid;
    reg [COUNT_BITS-1:0] row_count;
    reg [LANES-1:0] lane_valid;
    integer i;
    always @*
        for (i = 0; i < LANES; i = i + 1) lane_valid[i] = row_valid && i < row_count;
    wire [LANES-1:0] above, below;
    comparator_array #(.LANES(LANES), .WIDTH(WIDTH), .ABOVE(1)) larger (
        .data(data), .valid(lane_valid), .pivot(pivot), .hit(above));
    comparator_array #(.LANES(LANES), .WIDTH(WIDTH), .ABOVE(0)) smaller (
        .data(data), .valid(lane_valid), .pivot(pivot), .hit(below));

    reg compared;
    reg [LANES-1:0] above_r, below_r;
    reg [LANES*WIDTH-1:0] data_r;
    reg [COUNT_BITS-1:0] equals;
    always @* begin
        equals = 0;
        for (i = 0; i < LANES; i = i + 1) equals = equals + (lane_valid[i] && !above[i] && !below[i]);
    end
    always @(posedge clk) begin
        row_valid <= addressing && !reset;
        row_count <= last_row ? left : LANES;
        compared <= row_valid && !reset;
        if (row_valid) begin
            above_r <= above;
            below_r <= below;
            data_r <= data;
        end
        if (draw) equal <= 0;
        else if (row_valid) equal <= equal + equals;
    end

    // Packing and writing
    wire push_left, push_right;
    wire [COUNT_BITS-1:0] count_left, count_right;
    wire [LANES*WIDTH-1:0] packed_left, packed_right;
    zero_eliminator #(.LANES(LANES), .WIDTH(WIDTH), .REGISTERED(SHIFT_REGISTERS)) eliminator_left (
        .clk(clk), .reset(reset), .in_valid(compared), .in_last(1'b0), .keep(below_r), .data(data_r),
        .out_valid(push_left), .out_last(), .count(count_left), .packed_data(packed_left));
    zero_eliminator #(.LANES(LANES), .WIDTH(WIDTH), .REGISTERED(SHIFT_REGISTERS)) eliminator_right (
        .clk(clk), .reset(reset), .in_valid(compared), .in_last(1'b0), .keep(above_r), .data(data_r),
        .out_valid(push_right), .out_last(), .count(count_right), .packed_data(packed_right));
    survivor_fifo #(.LANES(LANES), .DEPTH(DEPTH), .WIDTH(WIDTH)) fifo_left (
        .clk(clk), .reset(reset), .turn(draw), .push(push_left), .push_count(count_left), .push_data(packed_left),
        .overrun(), .size(size_left), .read_row(from == LEFT ? address : {ROW_BITS{1'b0}}), .row(left_data));
    survivor_fifo #(.LANES(LANES), .DEPTH(DEPTH), .WIDTH(WIDTH)) fifo_right (
        .clk(clk), .reset(reset), .turn(draw), .push(push_right), .push_count(count_right), .push_data(packed_right),
        .overrun(), .size(size_right), .read_row(from == RIGHT ? address : {ROW_BITS{1'b0}}), .row(right_data));
endmodule

`default_nettype wire
