"""The domains as text: `#` name, `>` opening, `<` closing, `@` keys | kind | questions, `+`/`-` true and false sentences."""

ENUM_TEXT = """
priority: low = not urgent at all; whenever you have time; no hurry; can wait for a few weeks | medium = normal urgency; in the next days; fairly important; of ordinary importance | high = very urgent; as soon as possible; immediately; cannot wait; drop everything else
status: open = nobody has started on it; still waiting to be picked up; not started | in_progress = being worked on right now; someone is working on it; half done | closed = completely finished; done and dusted; fully resolved; over and done
payment: card = by credit card; with my Visa card; charged to the card | cash = in cash; with notes and coins | bank_transfer = by bank transfer; wired from our account; by wire | invoice = on invoice; against an invoice
shipping: express = overnight; the fastest way; by express courier | standard = the usual way; by ordinary post; regular mail | pickup = I will collect it myself; picked up at the store; collected in person
size: small = tiny; little; the smallest one | medium = middle-sized; of average size; neither big nor small | large = really big; huge; the biggest one
sentiment: positive = I love it; simply wonderful; very happy; could not be better; delighted | negative = I hate it; simply awful; very disappointed; could not be worse; a waste of money | neutral = it is okay; neither good nor bad; average; nothing special
difficulty: easy = simple enough for beginners; a piece of cake; no skill needed | medium = some practice needed; moderately tricky | hard = only for experts; really demanding; very difficult
frequency: daily = every day; each morning; every single day | weekly = once a week; every week; each Monday | monthly = once a month; every month | yearly = once a year; every year; annually
level: junior = a beginner; just out of school; little experience | senior = very experienced; many years of practice | lead = in charge of the team; head of the group
severity: info = just for information; nothing to worry about; harmless | warning = something to keep an eye on; slightly worrying | error = something failed; it broke; did not succeed | critical = the whole system is down; total outage; everything stopped
travel_class: economy = in the cheapest seats; in coach | business = in business class | first = in first class; with the finest seats
contract: full_time = forty hours a week; a full week | part_time = half days; a few hours a week; mornings only | freelance = on a freelance basis; self-employed
approval: approved = we said yes; accepted; gave the green light | rejected = we said no; turned down; declined | pending = no decision yet; still being considered; under review
weather: sunny = bright sunshine; clear blue sky | rainy = rain all day; heavy showers; wet | snowy = snowfall; everything is white | cloudy = gray clouds; overcast; no sun
mood: happy = in great spirits; smiling; cheerful | sad = in tears; feeling down; gloomy | angry = furious; shouting; very mad
reply_by: email = write me an email; by e-mail | phone = give me a call; ring me; by telephone | post = send me a letter; by post
"""

DOMAIN_TEXT = """
# order | order, purchase, customer order
> [Hello|Hi|Dear team|Good morning|Dear Sir or Madam],
> To whom it may concern,
> Hi there,
> I would like to place an order.
< [Kind regards|Best regards|Thanks|Best wishes|Yours sincerely|Cheers]
< Thank you in advance.
@ customer, customer_name, buyer, client, name | person | Who is the customer?;Who placed the order?;Who is the buyer?
My name is {v}.
This is {v}[ writing| again|].
I am {v}[ and I would like to order something| and I am a customer of yours|].
The [order|purchase] [is for|was placed by|comes from] {v}.
[Please put|Put] the order under the name {v}.
The customer is {v}.
{v} [ordered|bought|wants to buy] [this|these things|the goods].
The buyer's name is {v}.
@ order_id, order_number, reference, order_no | code | What is the order number?;Which number does the order have?
The order number is {v}.
[My|Our|Your] reference [is|was] {v}.
[It is|This is about|I am writing about|It concerns] order {v}.
Order {v} [has been received|was registered|is in our books].
Please [quote|mention|use] {v} [in your reply|on the invoice].
We [booked|filed|saved] it as order {v}.
@ product, item, article, product_name | product | What was ordered?;Which product is it?
I [want|would like|need] to [order|buy] the {v}.
[We|I] [ordered|bought|chose] the {v}.
The product is [called |]{v}.
It is about the {v} from your [catalog|shop|website].
The {v} [is what we need|was our choice|caught my eye].
@ quantity, amount, count, units, qty | small | How many units were ordered?;What is the quantity?
[We|I] need {v} of them.
The quantity is {v}.
[Please send|Send|Ship] {v} pieces.
[Make it|That would be|We take] {v} units[ in total|].
{v} pieces should be enough.
@ total, total_price, price, total_amount | money | What is the total price?;How much does the order cost?;What is the total?
The total [is|comes to|was|amounts to] {v}.
[I|We] [paid|was charged|will pay] {v} [in total|for everything|altogether].
The price [is|was] {v}.
It costs {v}[ altogether| including tax|].
You [charged|billed|asked] {v}[ for it|].
@ delivery_date, deliver_on, due_date, delivery | date | When should it be delivered?;What is the delivery date?
[Please deliver|Deliver|Send] it [on|by] {v}.
[We need|I need] everything [on|by] {v}.
Delivery is [planned|scheduled|expected] for {v}.
The goods [should|must|will] arrive [on|by] {v}.
The delivery date is {v}.
@ order_date, ordered_on, date, placed_on | date | When was the order placed?;What is the order date?
The order was [placed|made|sent] on {v}.
[I|We] ordered [it |]on {v}.
The order date is {v}.
Ordered on {v}.
@ city, delivery_city, destination, ship_to | city | Which city is it delivered to?;Where does the order go?
[Please send|Ship|Deliver] [it|everything] to {v}.
The [parcel|package|delivery] goes to {v}.
[We|I] live in {v}.
Our [office|store|house] is in {v}.
@ address, street, delivery_address | street | What is the address?;What is the delivery address?
The address is {v}.
[Please|Kindly] leave it at {v}.
You [find|will find] us at {v}.
[Bring|Deliver] it to {v}.
@ email, contact_email, customer_email | email | What is the e-mail address?;Which e-mail can be used?
[My|The|Our] [email|e-mail] [address |]is {v}.
[Write|Send the invoice|Send a note] to {v}.
You can [reach me|contact us|mail me] at {v}.
Contact: {v}.
@ phone, telephone, phone_number, contact_phone | phone | What is the phone number?;Which number can be called?
[My|The|Our] [phone|telephone] number is {v}.
[Call me|Ring us|You can call] [at|on|under] {v}.
[I|We] can be reached at {v}.
@ payment_method, payment, pay_by | enum:payment | How is it paid?;What is the payment method?
[I|We] [will pay|paid] {v}.
Payment: {v}.
It was paid {v}.
@ shipping, shipping_method, delivery_type | enum:shipping | How should it be shipped?;What is the shipping method?
[Send it|Ship it|I want it]: {v}.
For the delivery: {v}.
Delivery: {v}.
@ gift_wrap, gift, is_gift | bool | Is it a gift?;Should it be gift wrapped?
+ [Please wrap it as a gift|It is a gift|This is a present, so please wrap it nicely|Gift wrap, please].
- [No gift wrap is needed|It is not a gift|Do not wrap it as a gift|Gift wrapping is not necessary].
@ color, colour | color | Which color is wanted?;What color should it be?
[In|I want it in|We take it in] {v}[, please|].
The color [should be|is] {v}.
[Only|Just] the {v} one[, please|].

# person | person, biography, profile, employee, contact
> [Let me introduce myself|A few words about a colleague|Here is a short biography|From the staff page]:
> Meet our new colleague.
> Profile
> [News from the team|A portrait|Biography]
< That is [all|it] for now.
< Welcome to the team!
@ name, full_name, person, employee_name | person | What is the name of the person?;Who is this about?;What is the person called?
[My name is|I am|This is|Meet] {v}.
The name is {v}.
[Everyone|People] [calls|know] [the newcomer|this person] as {v}.
{v} [is the name|joined us this year|is known to all of us].
[Today|This week] we [present|introduce|portray] {v}.
@ age, years_old | age | How old is the person?;What is the age?
[I am|She is|He is] {v} years old.
[At the age of|Aged|Now aged] {v}, [there is still much to learn|life is good|nothing is too late].
The age is {v}.
[Turned|Has turned|Just turned] {v} [this year|last month|recently].
@ birth_date, date_of_birth, born_on, birthday | date | When was the person born?;What is the date of birth?
Born on {v}[ in a small town|].
[I|She|He] was born on {v}.
The date of birth is {v}.
[The birthday is|Birthday:] {v}.
@ birth_place, place_of_birth, born_in, hometown | city | Where was the person born?;What is the place of birth?
[I|She|He] was born in {v}.
[Grew up|Raised] in {v}.
[Originally|She comes|He comes|I come] from {v}.
The place of birth is {v}.
@ city, residence, lives_in, home_city | city | Where does the person live?;Which city does the person live in?
[I live|She lives|He lives|Now lives] in {v}.
[Home is|The home is] now {v}.
[I|She|He] moved to {v} [recently|some years ago|last year].
@ country, nationality_country | country | Which country is it?;What country is the person from?
The country [is|of origin is] {v}.
[I have|She has|He has] [a passport|citizenship] of {v}.
[A citizen|Citizen] of {v}.
@ occupation, job, profession, job_title, position | job | What is the occupation?;What does the person do for a living?;What is the job?
[I work|She works|He works] as {v}.
[The job title|The profession|My profession] is {v}.
[By profession|By training] {v}.
[Hired|Employed] as {v}.
@ company, employer, works_for, organization | company | Which company does the person work for?;Who is the employer?
[I work|She works|He works|Works] for {v}.
[The|My|Her|His] employer is {v}.
[Joined|Has joined|I joined] {v} [recently|some time ago|after school].
[Employed|On the payroll] at {v}.
@ department, team, unit | department | Which department is it?;In which department does the person work?
[The|My] department is {v}.
[Works|Working] in the {v} department.
[Part|A member] of the {v} team.
@ manager, boss, reports_to, supervisor | person | Who is the manager?;Who is the boss?
[The manager is|My boss is|The supervisor is] {v}.
[Reports|I report] to {v}.
{v} [is the manager|leads the team|is in charge].
@ salary, annual_salary, pay | money | What is the salary?;How much does the person earn?
[Earns|I earn|The salary is|The pay is] {v}[ a year| per year|].
[A yearly|An annual] salary of {v} was agreed.
@ email, contact_email, mail | email | What is the e-mail address?;How can the person be reached by mail?
[Email|E-mail|Mail]: {v}.
[Write|Messages] to {v}.
The [email|e-mail] address is {v}.
@ phone, phone_number, mobile | phone | What is the phone number?
[Phone|Mobile|Call]: {v}.
The phone number is {v}.
[Can be reached|Reachable] under {v}.
@ hobby, favorite_hobby, interest | hobby | What is the hobby?;What does the person like to do?
[My|The favorite] hobby is {v}.
[Likes|Loves|I love] {v}[ most of all|].
[In the free time|On weekends]: {v}.
@ level, seniority | enum:level | What is the level?;How senior is the person?
[The level|As for seniority]: {v}.
[I am|She is|He is] {v}.
@ married, is_married | bool | Is the person married?
+ [She is|He is|I am] [happily |]married.
- [She is|He is|I am] not married.
@ start_date, joined_on, first_day | date | When does the person start?;What is the start date?
[Starts|Will start|Started] on {v}.
The first day [at work |]is {v}.
[Begins|Joined] on {v}.
@ years_of_experience, experience_years, experience | small | How many years of experience does the person have?
[Has|With|I have] {v} years of experience.
{v} years [in the business|of experience] [speak for themselves|are no small thing].

# ticket | ticket, support ticket, complaint, issue
> [Dear support|Hello support team|Hi|Dear customer service],
> Support request
> [New|Incoming] ticket
< [Please help|Please fix this|I hope you can help].
< [Thanks|Regards]
@ ticket_id, ticket, case_number, case_id, ticket_number | code | What is the ticket number?;Which number does the case have?
[The ticket number is|Ticket|Case number:] {v}.
[Case|Ticket] {v} [was opened|is still open|has been created].
[It is filed|Filed] under {v}.
@ reporter, customer_name, user, reported_by, requester | person | Who reported the problem?;Who opened the ticket?
[Reported by|Opened by|Sent in by] {v}.
My name is {v}.
{v} [reported the problem|wrote to us|opened the ticket|complained].
[The report came|It came] from {v}.
@ assignee, assigned_to, agent, owner | person | Who is the ticket assigned to?;Who takes care of the problem?
[Assigned|It was assigned|We gave it] to {v}.
{v} [will take care of it|is looking into it|took the case].
[The agent is|The assignee is] {v}.
@ product, device, affected_product | product | Which product is affected?;What is broken?
The {v} [does not work|is broken|stopped working|makes a strange noise].
[I have a problem|There is trouble] with [my|the] {v}.
[It concerns|It is about] the {v}.
@ error_code, error, code | code | What is the error code?;Which error code is shown?
[The display|The screen] shows [error |]{v}.
[It says|The message says] [error |]{v}.
The error code is {v}.
@ priority, urgency, importance | enum:priority | How urgent is it?;What is the priority?
[It is|This is] {v}.
[The urgency|Urgency|Priority]: {v}.
[Handle it|Treat it|Mark it]: {v}.
@ status, state, ticket_status | enum:status | What is the status?;What is the state of the ticket?
[The status|Status|State]: {v}.
[At the moment|Right now] it is {v}.
@ severity, log_level | enum:severity | How severe is it?;What is the severity?
[Severity|The severity]: {v}.
[We see it as|It counts as] {v}.
@ opened_on, created_at, date, reported_on, created | date | When was the ticket opened?;When was it reported?
[Opened|Created|Reported] on {v}.
[It|The problem] [started|began|first appeared] on {v}.
[I noticed|We saw] it on {v}.
@ purchase_date, bought_on | date | When was it bought?;What is the purchase date?
[I|We] [bought|got] it on {v}.
The purchase date is {v}.
[Bought|Purchased] on {v}.
@ version, software_version | decimal | Which version is it?;What is the version?
[It runs|Running] version {v}.
The version is {v}.
[After the update|Since the update] to {v}[ nothing works|].
@ email, contact, contact_email | email | What is the contact e-mail?;Where can the customer be reached?
[Answer|Reply|Please write] to {v}.
[My|The contact] [email|e-mail] is {v}.
@ refund_requested, wants_refund, refund | bool | Is a refund requested?;Does the customer want a refund?
+ [I want my money back|Please refund the money|A refund is requested].
- [I do not want a refund|No refund is needed|A refund is not necessary].
@ attempts, number_of_attempts, tries | small | How many attempts were made?;How often was it tried?
[I|We] tried [it |]{v} times.
[It failed|It crashed] {v} times.
@ reply_by, preferred_contact, contact_channel | enum:reply_by | How should the answer be sent?;What is the preferred contact?
[For the answer|To answer]: {v}.
[Preferably|Best]: {v}.

# meeting | meeting, event, appointment, calendar entry
> [Hi all|Dear colleagues|Team|Hello everyone],
> Meeting notes
> [Invitation|You are invited|Save the date]
< [See you there|Please be on time|Looking forward to it].
< [Please confirm|Let me know if you can come].
@ title, event, meeting_title, subject, topic | title | What is the title of the meeting?;What is the meeting called?;What is the topic?
[The meeting is called|The title is|The topic is|Subject:] {v}.
[We meet|Let us meet] to talk about {v}.
[The event|It] is [called|titled] {v}.
@ organizer, host, organised_by, organizer_name | person | Who organizes the meeting?;Who is the host?
[The organizer is|Organized by|Hosted by] {v}.
{v} [organizes|will host|runs|set up] [the meeting|the event|it].
[It was|It is] {v} who [invites|invited] us.
@ speaker, presenter, main_speaker | person | Who is the speaker?;Who will present?
[The speaker is|The talk is by] {v}.
{v} [will speak|gives a talk|will present the results].
@ note_taker, minutes_by, secretary | person | Who takes the notes?;Who writes the minutes?
[Minutes by|Notes by|The notes are taken by] {v}.
{v} [takes notes|writes the minutes].
@ date, day, meeting_date, event_date, on | date | When is the meeting?;On which day is the meeting?;What is the date?
[The meeting|It|The event] [is|takes place|will be held] on {v}.
[We meet|We will meet|Let us meet] on {v}.
[Date:|The date is] {v}.
@ time, start_time, start, begins_at, starts_at | time | At what time does the meeting start?;When does it begin?
[It starts|We start|It begins|We begin] at {v}.
[The start is|Start:|Doors open] at {v}.
[Be there|Please come] at {v}.
@ end_time, ends_at, end | time | At what time does it end?;When does the meeting end?
[It ends|We finish|It is over] at {v}.
[We should be|You will be] done by {v}.
@ duration_minutes, duration, length_minutes, minutes | minutes | How long does it take?;How many minutes does it take?
[It takes|It lasts|Plan for|It will take] {v}.
[The duration|The length] is {v}.
@ location, place, venue, where | venue | Where is the meeting?;What is the venue?;Where does it take place?
[The place is|The venue is|Place:|Where:] {v}.
[We meet|It takes place|It is held] at {v}.
[Come|Please come] to {v}.
@ city, town, location_city | city | In which city is the meeting?;Which city is it in?
[It is|It takes place|We meet] in {v}.
[All of us travel|Everybody comes] to {v}.
@ attendees_count, participants, number_of_guests, guests, expected_guests | small | How many people will come?;How many guests are expected?
[We expect|There will be|We are] {v} people.
{v} [people|guests|colleagues] [signed up|will come|said yes].
[Seats|Chairs] for {v} are [ready|booked].
@ online, is_online, remote | bool | Is the meeting online?;Does it take place online?
+ [It is an online meeting|We meet online|The meeting is held by video].
- [It is not online|We meet in person|No video, everyone comes in person].
@ frequency, repeats, recurrence | enum:frequency | How often does it take place?;How often is the meeting?
[It takes place|We do this|It repeats] {v}.
[How often|Rhythm]: {v}.
@ room, room_number | code | Which room is it?;What is the room number?
[Room|The room is] {v}.
[Go|Please come] to room {v}.
@ approval, decision | enum:approval | What was decided?;What is the decision?
[The decision on the proposal|About the proposal]: {v}.
[The proposal|The plan] was discussed: {v}.

# invoice | invoice, bill, receipt, statement
> INVOICE
> [Please find our invoice below|Dear customer,|Billing statement]
> Receipt
< [Payment is due without deduction|Please pay on time].
< Thank you for your business.
@ invoice_number, invoice_id, number, invoice_no | code | What is the invoice number?;Which number does the invoice have?
Invoice [number|no.] {v}.
[This is|Please find] invoice {v}.
[The invoice|It] has the number {v}.
@ seller, vendor, supplier, issued_by, from_company | company | Who is the seller?;Which company issued the invoice?;Who is the vendor?
[Issued by|Seller:|From] {v}.
{v} [sends you this bill|is the seller|issued this invoice].
[Goods|Services] delivered by {v}.
@ buyer, customer, billed_to, bill_to, client | company | Who is billed?;Who is the customer?
[Billed to|Bill to:|Customer:] {v}.
[The customer is|The invoice goes to] {v}.
{v} [has to pay|is the customer|received the goods].
@ issue_date, invoice_date, date, issued_on | date | When was the invoice issued?;What is the invoice date?
[Issued|Written|Dated] [on |]{v}.
[The invoice date is|Invoice date:] {v}.
@ due_date, pay_by, payment_due | date | When is the payment due?;Until when must it be paid?
[Payment is due|Due|Please pay] by {v}.
[The due date is|Due date:] {v}.
[We expect|We need] your money by {v}.
@ subtotal, net_amount, net | money | What is the subtotal?;What is the net amount?
[The subtotal is|Subtotal:|Net amount:] {v}.
[Before tax|Without tax] [it is|that makes] {v}.
@ tax, tax_amount, vat | money | How much is the tax?;What is the tax amount?
[Tax:|The tax is|VAT:] {v}.
[Plus|In addition,] {v} [of tax|in taxes].
@ total, total_due, amount_due, grand_total | money | What is the total?;How much must be paid?
[Total:|The total is|Amount due:] {v}.
[In total|Altogether] you [pay|owe us] {v}.
The grand total [is|comes to] {v}.
@ tax_rate, vat_percent, tax_percent | percent | What is the tax rate?
[The tax rate is|Tax rate:] {v}.
[Taxed|A tax] at {v}.
@ discount, discount_percent, rebate | percent | What is the discount?;How big is the discount?
[You get|We gave you|There is] a discount of {v}.
[Discount:|The discount is] {v}.
@ paid, is_paid, payment_received | bool | Has the invoice been paid?;Is it paid?
+ [The invoice has been paid|It is already paid|We received your payment].
- [The invoice has not been paid|It is not paid yet|We have not received your payment].
@ payment_method, method, paid_by | enum:payment | How is it paid?;What is the payment method?
[Payment|To be paid|Method]: {v}.
@ account, iban, account_number | code | What is the account number?;Which account is used?
[Account|Our account is|Transfer it to account] {v}.

# recipe | recipe, dish
> [Here is my favorite recipe|A recipe from my grandmother|Tonight we cook].
> [Recipe of the week|From the kitchen]
< [Enjoy your meal|Serve warm|Good luck and enjoy].
@ name, title, dish, recipe_name | dish | What is the dish called?;Which dish is it?
[This is|Today we make|Let us cook] {v}.
The [dish|recipe] is called {v}.
{v} [is easy to make|is on the menu|never fails].
@ servings, serves, portions | small | How many servings does it make?;How many people does it serve?
[Serves|It serves|Enough for|This makes dinner for] {v}[ people|].
[The recipe|It] makes {v} portions.
@ prep_minutes, preparation_time, prep_time | minutes | How long is the preparation?;How many minutes of preparation are needed?
[Preparation takes|The preparation needs|Prepare for] {v}.
[Chopping and mixing|Getting ready] takes {v}.
@ cook_minutes, cooking_time, cook_time | minutes | How long does it cook?;What is the cooking time?
[Cook|Bake|Boil|Let it cook] [it |]for {v}.
[The cooking time is|It stays in the oven for] {v}.
@ temperature, oven_temperature, oven_degrees | count | How hot must the oven be?;What is the temperature?
[Heat the oven|Set the oven|Preheat] to {v} degrees.
[The oven should be|Use] {v} degrees.
@ difficulty, level | enum:difficulty | How difficult is it?;What is the difficulty?
[The level|Difficulty|How hard is it? It is]: {v}.
@ author, cook, chef | person | Who wrote the recipe?;Who is the cook?
[A recipe by|Written by|The recipe is from] {v}.
{v} [taught me this|sent us this recipe|is the cook].
@ main_ingredient, key_ingredient | food | What is the main ingredient?
[The main ingredient is|It is all about|The star is] {v}.
[Without|You cannot do it without] {v} [it is nothing|this will not work].
@ vegetarian, is_vegetarian | bool | Is it vegetarian?
+ [It is vegetarian|There is no meat in it|A vegetarian dish].
- [It is not vegetarian|It contains meat|Not for vegetarians].
@ calories, calories_per_serving, kcal | count | How many calories does it have?
[It has|A portion has|About] {v} calories.
@ cost, price, cost_per_serving | money | How much does it cost?
[The ingredients cost|It costs|All in all] {v}.

# log | log entry, incident, event log, alert
> [System log|Log excerpt|Alert]
> [Dear on-call|Incident report]
< [End of report|End of log].
@ host, server, machine, hostname, node | invented | Which server is affected?;What is the name of the machine?
[Host|Server|Node] {v} [reports|reported|sent] [an event|a problem|an alert].
[It happened|Seen] on [host|server] {v}.
[The machine is|The server is] {v}.
@ service, component, process, module | invented | Which service is affected?;What is the service?
[The service|Service|Component] {v} [restarted|stopped|is slow|failed].
[Affected|The affected service is] {v}.
@ severity, level, log_level | enum:severity | How severe is it?;What is the level?
[Level|Severity]: {v}.
@ date, day, on | date | On which day did it happen?;What is the date of the event?
[On|Logged on|It happened on] {v}.
[Date|The date was] {v}.
@ time, at, timestamp, logged_at | time | At what time did it happen?
[At|Logged at|It happened at] {v}.
[The clock showed|Time:] {v}.
@ error_code, code, event_id, status_code | code | What is the error code?;Which event id is it?
[Error code|The code was|Event id:] {v}.
[Failed|It ended] with {v}.
@ user, username, account, login | invented | Which user was logged in?;What is the user name?
[User|Account] {v} [was logged in|logged out|had no access].
[Started|Called] by user {v}.
@ duration_ms, latency_ms, response_time, milliseconds | count | How long did it take?;What was the response time?
[It took|The request took|After] {v} ms.
[The response time was|Latency:] {v} ms.
@ retries, retry_count, attempts | small | How many retries were there?
[Retried|We retried|Tried again] {v} times.
[After|There were] {v} retries.
@ memory_mb, memory, memory_used | count | How much memory was used?
[Memory use|It used|The process held] {v} MB.
@ url, endpoint, path, link | url | Which address was called?;What is the URL?
[Calling|The call to|A request to] {v} [failed|timed out|was slow].
[Link|See also|More]: {v}
@ resolved, is_resolved, fixed | bool | Is it resolved?;Has the problem been fixed?
+ [It has been resolved|The problem is fixed|All is well again].
- [It is not resolved|The problem is not fixed yet|It still fails].
@ disk_usage, disk_percent, cpu_percent | percent | How full is the disk?;What is the usage?
[The disk is|Usage at|Load:] {v}[ full|].

# product | product, product page, catalog entry, listing
> [Product description|New in our shop|From the catalog]
> [Discover|Look at] this.
< [Order now|While stocks last|Buy it today].
@ name, product_name, product, title | product | What is the product?;What is the product called?
[The|Our|This] {v} [is new|is a bestseller|has everything you need].
[Product|Name|Meet]: {v}.
[We present|Now in stock:] the {v}.
@ brand, manufacturer, maker, made_by | company | Which brand is it?;Who makes the product?
[Made by|A product of|Brand:|From] {v}.
{v} [makes it|is the manufacturer|stands for quality].
@ price, unit_price, list_price, cost | money | What is the price?;How much does it cost?
[Price|Only|Now]: {v}.
[It costs|You pay|Yours for] {v}.
The price is {v}.
@ old_price, former_price, original_price | money | What was the old price?;How much did it cost before?
[It used to cost|The old price was|Before:] {v}.
[Down from|Reduced from] {v}.
@ weight_kg, weight | kg | How much does it weigh?;What is the weight?
[It weighs|Weight:|The weight is] {v}.
[With|At] {v}, it is [light|heavy|easy to carry].
@ width, width_cm | measure | How wide is it?;What is the width?
[Width:|It is|The width is] {v}[ wide|].
@ height, height_cm | measure | How high is it?;What is the height?
[Height:|The height is|It stands] {v}[ tall|].
@ color, colour, main_color | color | Which color does it have?;What color is it?
[Color|Comes in|Available in]: {v}.
[The color is|A beautiful|It has a] {v}.
@ material, made_of | material | What is it made of?;What is the material?
[Made of|Material:|The material is] {v}.
@ rating, stars, average_rating | rating | What is the rating?;How is it rated?
[Customers rate it|Rating:|Rated] {v}.
[Our readers gave it|It got] {v}.
@ stock, in_stock_count, units_left, available | count | How many are in stock?;How many units are left?
[There are|We have|Stock:] {v} [left|in stock|available].
@ available, in_stock, is_available | bool | Is it available?;Is it in stock?
+ [It is in stock|Available now|You can buy it right away].
- [It is out of stock|Currently not available|Sold out for now].
@ size, product_size | enum:size | Which size is it?
[Size|The size]: {v}.
@ sku, article_number, item_code, product_code | code | What is the article number?;What is the product code?
[SKU|Article|Item no.] {v}.
[Its article number is|Look for] {v}.
@ warranty_years, warranty, guarantee_years | small | How many years of warranty are there?
[With|Comes with|There are] {v} years of warranty.
@ release_date, available_from, launched_on | date | When is it released?;Since when is it available?
[Available from|Released on|On sale since] {v}.

# trip | trip, booking, reservation, travel plan
> [Your booking is confirmed|Travel plan|Dear guest,|Dear traveler,]
> [I want to book a trip|Reservation request]
< [Have a nice trip|Safe travels|Bon voyage]!
@ traveler, passenger, guest, guest_name, name | person | Who is traveling?;Who is the guest?;What is the name of the passenger?
[The traveler is|Passenger:|Guest:] {v}.
[Booked for|Reserved for|In the name of] {v}.
{v} [will travel|is the guest|booked the trip].
@ origin, departure_city, from_city, departure | city | Where does the trip start?;From which city does the trip start?
[From|Leaving from|Departure from|We start in] {v}.
[The trip starts|It begins] in {v}.
@ destination, to_city, arrival_city, going_to | city | Where does the trip go?;What is the destination?
[To|Going to|The destination is|Arrival in] {v}.
[We travel|The flight goes|I want to go] to {v}.
@ departure_date, leave_on, start_date, check_in, outbound | date | When does the trip start?;What is the departure date?;When is the check-in?
[Departure|Check-in|Leaving|We leave] on {v}.
[The trip starts|It all begins] on {v}.
@ return_date, back_on, end_date, check_out, inbound | date | When does the trip end?;What is the return date?;When is the check-out?
[Return|Check-out|Coming back|We come back] on {v}.
[The trip ends|Back home] on {v}.
@ hotel, accommodation, hotel_name | venue | What is the hotel?;Where do they stay?
[The hotel is|We stay at|Staying at|Hotel:] {v}.
[A room|Rooms] at {v} [is booked|are booked].
@ guests, travelers, number_of_people, party_size, persons | small | How many people travel?;For how many people is the booking?
[For|A party of|We are] {v} people.
{v} [people|persons|travelers] [in total|altogether|].
@ rooms, number_of_rooms | small | How many rooms are booked?
{v} rooms [please|are needed|are booked].
[We need|Book] {v} rooms.
@ price, total_price, fare, cost | money | How much does the trip cost?;What is the price?
[The fare is|It costs|The price is|Total:] {v}.
[We paid|You pay] {v} for [the trip|everything].
@ flight_number, flight, booking_code, confirmation, booking_reference | code | What is the flight number?;What is the booking code?
[Flight|Booking code|Confirmation] {v}.
[Your code is|It is booked as] {v}.
@ travel_class, cabin_class, class | enum:travel_class | In which class do they travel?
[Traveling|The seats are|We fly] {v}.
[Class|Seats]: {v}.
@ breakfast, breakfast_included, with_breakfast | bool | Is breakfast included?
+ [Breakfast is included|With breakfast].
- [Breakfast is not included|Without breakfast].
@ departure_time, leaves_at, time | time | At what time do they leave?;When is the departure?
[Leaves|We leave|Departure] at {v}.
@ gate, seat, platform | code | Which gate is it?;What is the seat?
[Gate|Seat|Platform] {v}.

# news | news, article, press release, report
> [Breaking news|From our correspondent|Press release|Local news]
> [Read in the paper today|Headlines]
< [More soon|We will keep you informed|End of the report].
@ headline, title, subject | title | What is the headline?;What is the article about?
[Headline|Title|Topic]: {v}.
[The story is called|Everyone talks about] {v}.
@ author, reporter, journalist, written_by | person | Who wrote the article?;Who is the reporter?
[By|Written by|Reported by] {v}.
{v} [reports|wrote this|is our reporter].
@ city, place, location, reported_from | city | Where did it happen?;Which city is it about?
[It happened|The news comes|A report] from {v}.
[In|Out of] {v}[, people were surprised|, nothing is as it was|].
@ date, published_on, publication_date, published | date | When was it published?;What is the date of the article?
[Published|Printed|Posted] on {v}.
[Dated|The paper of] {v}.
@ company, organization, institution | company | Which company is involved?;What company is it about?
[The company|The firm] {v} [announced it|is behind it|confirmed this].
{v} [opened a new plant|will hire more people|announced big changes].
@ people_affected, number_of_people, visitors, attendance | count | How many people were affected?;How many visitors came?
{v} [people|visitors] [came|were affected|took part].
[About|Nearly|Some] {v} people [were there|saw it].
@ cost, budget, amount, damage | money | How much does it cost?;What is the budget?
[The budget is|It will cost|The damage is|Costs:] {v}.
@ growth, change_percent, increase, percent_change | percent | By how much did it grow?;What is the growth?
[Sales|Prices|Numbers] [grew|rose|went up] by {v}.
[An increase|Growth] of {v}[ was reported|].
@ spokesperson, quoted_person, source, witness | person | Who was quoted?;Who is the spokesperson?
"[We are proud|It was a hard year|This is good news]," said {v}.
[A spokesperson|The spokesperson], {v}, [confirmed it|had no comment].
@ mood, tone | enum:mood | What was the mood?
[The crowd was|People were|The mood]: {v}.
@ year, founded, since | year | In which year was it founded?;Since which year?
[Founded|Started|It all began] in {v}.
[Since|It goes back to] {v}.

# patient | patient, medical note, appointment, visit
> [Medical note|Patient record|Visit summary]
> [Dear doctor|Dear colleague],
< [Get well soon|With kind regards from the practice].
@ patient, patient_name, name | person | Who is the patient?;What is the name of the patient?
[The patient is|Patient:|We saw] {v}.
{v} [came to the practice|was seen today|is our patient].
@ doctor, physician, seen_by, doctor_name | person | Who is the doctor?;Who saw the patient?
[Seen by|The doctor was|Examined by] Dr. {v}.
Dr. {v} [wrote this note|examined the patient].
@ age, patient_age | age | How old is the patient?
[Aged|The age is|Now] {v}.
[A patient of|The patient is] {v} years[ old|].
@ visit_date, date, seen_on, appointment_date | date | When was the visit?;What is the date of the visit?
[Seen|Visit|The visit was] on {v}.
@ next_visit, next_appointment, follow_up, follow_up_date | date | When is the next visit?;When is the next appointment?
[Next visit|Come back|Follow-up] on {v}.
[The next appointment is|We meet again] on {v}.
@ medicine, medication, drug, prescription | invented | Which medicine was given?;What is the medication?
[Prescribed|Takes|The medicine is] {v}.
[Give|Continue with] {v}[ as before|].
@ dose_mg, dose, milligrams | count | What is the dose?;How many milligrams are given?
[The dose is|Dose:|Take] {v} mg[ a day|].
@ times_per_day, doses_per_day | small | How many times per day?
{v} times [a|per] day.
[Take it|To be taken] {v} times a day.
@ temperature, body_temperature | decimal | What is the temperature?
[Temperature|The fever was|Measured]: {v} degrees.
@ weight_kg, weight, body_weight | kg | How much does the patient weigh?
[Weight|Weighs|The scales show]: {v}.
@ symptom, complaint, problem | phrase | What is the complaint?
[Complains about|The complaint is|Came because of]: {v}.
The patient [complains about|came because of] {v}.
@ smoker, is_smoker, smokes | bool | Does the patient smoke?
+ [Smokes|A smoker|The patient smokes].
- [Does not smoke|A non-smoker|The patient never smokes].
@ insurance, insurer, insurance_company | company | What is the insurance?
[Insured with|Insurance:|The insurer is] {v}.

# job | job posting, vacancy, position, application
> [We are hiring|Join us|Open position|Vacancy]
> [Dear applicant|Careers],
< [Apply now|We look forward to your application|Send us your papers].
@ position, job_title, role, title | job | Which position is open?;What is the job?
[We are looking for|We need|Wanted:] {v}.
[The position is|Position:|Role:] {v}.
@ company, employer, organization | company | Which company is hiring?;Who is the employer?
{v} [is hiring|is growing|offers a job].
[The company is|Employer:|Work at] {v}.
@ location, city, place_of_work, office | city | Where is the job?;In which city is the office?
[The office is|Place of work:|Based|You work] in {v}.
@ salary, pay, yearly_salary, annual_pay | money | What is the salary?;How much is paid?
[The salary is|We pay|Pay:|We offer] {v}[ a year|].
@ contract_type, employment_type, contract | enum:contract | What kind of contract is it?
[The contract|Working time|Terms]: {v}.
@ contact_person, contact, recruiter, hiring_manager | person | Who is the contact person?;Who should be asked?
[Contact|Ask for|Questions go to|Your contact is] {v}.
{v} [answers your questions|is the hiring manager].
@ apply_by, deadline, closing_date, application_deadline | date | What is the deadline?;Until when can one apply?
[Apply by|Deadline:|The deadline is|Until] {v}.
@ start_date, starting, begins | date | When does the job start?
[Start|Starting|You begin] on {v}.
@ hours_per_week, weekly_hours, hours | small | How many hours per week?
{v} hours [a|per] week.
[You work|We expect] {v} hours a week.
@ remote, home_office, remote_possible | bool | Is remote work possible?
+ [Remote work is possible|You can work from home].
- [Remote work is not possible|You cannot work from home].
@ vacation_days, holidays, days_off | small | How many vacation days are there?
[There are|You get|We give] {v} days of vacation.
@ email, apply_to, contact_email | email | Where should applications be sent?
[Send your papers|Apply|Write] to {v}.
@ experience_years, required_experience, years_required | small | How many years of experience are needed?
[At least|You have|We ask for] {v} years of experience.

# house | property, apartment, house listing, rental
> [For rent|For sale|New listing|Apartment to let]
> [A lovely home|Look at this home].
< [Call for a visit|Do not miss it|First come, first served].
@ address, street, located_at | street | What is the address?;Where is the house?
[The address is|Located at|Address:|You find it at] {v}.
@ city, town, place | city | In which city is it?
[In|The town is|Right in the heart of] {v}.
@ rent, price, monthly_rent, asking_price | money | What is the rent?;How much does it cost?
[The rent is|Price:|Asking price:|It costs] {v}[ a month|].
@ deposit, security_deposit | money | How much is the deposit?
[The deposit is|Deposit:|A deposit of] {v}.
@ rooms, number_of_rooms, room_count | small | How many rooms are there?
[It has|There are|With] {v} rooms.
@ bathrooms, baths, number_of_bathrooms | small | How many bathrooms are there?
{v} bathrooms.
[It has|There are|With] {v} bathrooms.
@ area_sqm, area, living_area, square_meters, size_sqm | count | How big is it?;What is the area?
{v} square meters.
[The area is|Living area:|It measures] {v} square meters.
@ available_from, free_from, move_in_date | date | When is it available?
[Free|Available|Move in] from {v}.
@ owner, landlord, seller | person | Who is the owner?;Who is the landlord?
[The owner is|Landlord:|Owned by] {v}.
{v} [rents it out|is the owner].
@ built, year_built, construction_year | year | When was it built?
[Built|Constructed|Finished] in {v}.
@ balcony, has_balcony | bool | Does it have a balcony?
+ [It has a balcony|With balcony].
- [There is no balcony|Without balcony].
@ pets_allowed, pets | bool | Are pets allowed?
+ [Pets are allowed|Pets are welcome].
- [No pets|Pets are not allowed].
@ floor, floor_number, storey | small | On which floor is it?
[Floor number|On floor|It is on floor] {v}.
@ phone, contact_phone | phone | What is the phone number?
[Call|Phone:|Ring] {v}.

# book | book, publication, film, movie, song
> [Book review|From the library|Now in the cinema]
> [A recommendation|I just finished this one].
< [Worth your time|Not for everyone|Recommended].
@ title, name, book_title | title | What is the title?;What is it called?
[The title is|It is called|Title:] {v}.
[I read|I saw|They sell] {v}[ last week|].
@ author, writer, director, creator, artist | person | Who is the author?;Who made it?
[Written by|By|A work of|The author is] {v}.
{v} [wrote it|made it|is the author].
@ publisher, published_by, studio, label | company | Who is the publisher?
[Published by|The publisher is|Brought out by] {v}.
@ year, publication_year, released, year_of_publication | year | In which year was it published?
[Published|It appeared|Released|It came out] in {v}.
@ pages, page_count, number_of_pages, length | count | How many pages does it have?
[It has|Around|With] {v} pages.
@ genre, category, kind | phrase | What is the genre?
[Genre|Category]: {v}.
[The genre is|They call it] {v}.
@ rating, stars, score | rating | What is the rating?
[I give it|Rating:|The critics say] {v}.
@ price, cost | money | How much does it cost?
[It costs|Price:|I paid] {v}.
@ isbn, code, catalog_number | code | What is the code?;What is the catalog number?
[Catalog number|ISBN|Shelf mark] {v}.
@ copies_sold, sales, sold | count | How many copies were sold?
[It sold|They sold|Sold:] {v} copies.
@ sentiment, opinion, verdict | enum:sentiment | What is the opinion?
[My opinion|In short|Verdict]: {v}.
@ language, original_language, language_name | country | Where does it come from?
[It comes from|From|Made in] {v}.

# vehicle | vehicle, car, machine, rental car
> [Car for sale|Vehicle report|Rental agreement]
> [Inspection|From the workshop]
< [Drive safely|Keys are at the desk].
@ model, vehicle, car_model | title | Which model is it?
[The model is|Model:|It is a] {v}.
@ license_plate, plate, registration, plate_number | code | What is the license plate?
[Plate|License plate|Registered as] {v}.
@ owner, driver, renter, registered_to | person | Who is the owner?;Who drives it?
[Owner|Driver|Registered to|Rented by]: {v}.
{v} [is the owner|drives it|signed for it].
@ mileage, kilometers, distance_km, odometer | count | How many kilometers has it driven?;What is the mileage?
[Mileage|The odometer shows|It has driven] {v} km.
@ year, built_in, model_year | year | Which year is it from?
[Built in|Model year|From] {v}.
@ price, asking_price, daily_rate, cost | money | What is the price?
[Price|It costs|Yours for]: {v}.
@ color, colour, paint | color | Which color is it?
[Color|The paint is|It is] {v}.
@ fuel, fuel_type | phrase | Which fuel does it need?
[Fuel|It runs on|Fill it with]: {v}.
@ last_service, serviced_on, last_inspection | date | When was the last service?
[Last service|Serviced|Inspected] on {v}.
@ doors, number_of_doors, seats | small | How many doors does it have?
[It has|With] {v} doors.
@ damaged, has_damage | bool | Is it damaged?
+ [It is damaged|There is some damage].
- [It is not damaged|No damage at all].
@ weight_kg, weight, load_kg | kg | How much does it weigh?
[It weighs|Weight:] {v}.

# letter | letter, message, email, mail, note
> Dear {first},
> [Hi|Hello] {first},
> Dear [Mr.|Ms.|Mrs.] {last},
< [Love|Yours|All the best|Warm regards|See you soon]
< [Take care|Write soon|Bye for now]
@ sender, from, writer, author, signed_by | person | Who wrote the letter?;Who is the sender?;Who signed the letter?
[Signed|Yours,|Sent by|From] {v}.
[It is me|This is], {v}.
{v} [sends greetings|wrote this letter|signed the letter].
@ recipient, to, addressee, receiver | person | Who is the letter for?;Who is the recipient?
[To|For|Addressed to] {v}.
[This letter is|This is meant] for {v}.
@ date, written_on, sent_on, letter_date | date | When was the letter written?
[Written|Sent|Dated] [on |]{v}.
@ city, place, sent_from, written_in | city | Where was the letter written?
[Greetings|Sent|I write to you] from {v}.
@ event, occasion, reason, subject | title | What is the occasion?;What is the letter about?
[It is about|I write because of|The occasion is] {v}.
@ event_date, when, visit_date, arrival_date | date | When is the event?;When is the visit?
[I will come|We come|It happens|We celebrate] on {v}.
@ event_time, time, arrival_time | time | At what time is it?
[We start|Come|I arrive] at {v}.
@ amount, money, sum, owed | money | How much money is it about?
[I owe you|You owe me|I send you|Enclosed you find] {v}.
@ request, favor, wish, asks_for | phrase | What does the writer ask for?;What is the request?
[Could you send|Please bring|I need|I ask you for] {v}.
@ phone, phone_number | phone | What is the phone number?
[Call me|My number is|Ring me] {v}.
@ email, mail_address | email | What is the e-mail address?
[My new address is|Mail me|Write to] {v}.
@ people, guests, number_of_people, visitors | small | How many people will come?
[We are|There will be|We come as] {v} people.
@ reply_by, reply_channel, answer_by | enum:reply_by | How should one reply?
[To answer|Please]: {v}.
@ children, number_of_children, kids | small | How many children are there?
[With|We have|There are] {v} children.
"""
